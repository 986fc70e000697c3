"""A file to profile-store in pieces, with progress, and what came of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from berth.cli.progress import Progress
from berth.v1 import profiles_pb2 as pb

__all__ = ["show_import", "upload"]

PIECE_BYTES = 1024 * 1024


async def upload(stub: Any, file: Path, first: pb.UploadProfilesRequest) -> pb.ImportProfilesResponse:
    """Sends the file; `first` says all but the content."""
    size = (await asyncio.to_thread(file.stat)).st_size
    with Progress(f"importing {file.name}", size) as bar:

        async def pieces() -> AsyncIterator[pb.UploadProfilesRequest]:
            yield first
            sent = 0
            with await asyncio.to_thread(file.open, "rb") as opened:
                while piece := await asyncio.to_thread(opened.read, PIECE_BYTES):
                    yield pb.UploadProfilesRequest(content=piece)
                    sent += len(piece)
                    bar.at(min(sent, size), "bytes" if sent < size else "bytes; reading it")

        answer: pb.UploadProfilesResponse = await stub.UploadProfiles(pieces())
    return answer.result


def show_import(name: str, result: pb.ImportProfilesResponse) -> None:
    """What was taken on standard output, what was left out, and why, below it."""
    total = result.changed + result.unchanged
    outcome = f"{result.changed} new or changed, {result.unchanged} as before"
    click.echo(f"{name}: read as {result.format}, {total} profile{'' if total == 1 else 's'}: {outcome}")
    for sentence in result.taken:
        click.echo(f"  took: {sentence}")
    for sentence in result.skipped:
        click.echo(f"  left out: {sentence}")
