"""Where an inventory comes from: a file that is watched, or a command that is run again and again."""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from berth.device_plugin.inventory import Inventory
from berth.device_plugin.reading import parse_text
from berth.device_plugin.serving import Looks
from berth.errors import FieldError, InvalidInput

__all__ = ["Command", "Failure", "File", "Source"]

MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """An inventory could not be had; `errors` where it was had and is wrong."""

    reason: str
    errors: tuple[FieldError, ...] = ()

    @classmethod
    def of(cls, what: str, error: InvalidInput) -> "Failure":
        return cls(f"{what} is refused: {error}", error.errors)


@dataclass(frozen=True, slots=True)
class File:
    """A YAML or JSON file. `seconds`: at most between two looks at it, where no event comes."""

    path: Path
    resources: tuple[str, ...] = ()
    seconds: float = 5.0
    failures: int = 0
    """None of its failures takes the health from devices: a file says nothing about them by being broken."""

    def __str__(self) -> str:
        return str(self.path)

    async def read(self) -> Inventory | Failure:
        try:
            # A folder or a device could be read for ever.
            if not self.path.is_file():
                return _no_file(self.path, "there is no such file")
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            return _no_file(self.path, f"it cannot be read: {error.strerror}")
        try:
            return parse_text(_decoded(text), self.resources)
        except InvalidInput as error:
            return Failure.of(str(self.path), error)

    async def follow(self) -> AsyncGenerator[Inventory | Failure, None]:
        """What it says at each change of its folder: editors and ConfigMaps replace files, they do not write them."""
        looks = Looks()
        watching = asyncio.create_task(looks.watch(self.path.absolute().parent, self.seconds))
        try:
            # The watch begins before the first look: what changes in between is not missed.
            await asyncio.sleep(0)
            while True:
                changed = asyncio.ensure_future(looks.wait())
                yield await self.read()
                await changed
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


@dataclass(frozen=True, slots=True)
class Command:
    """A program that prints an inventory. `seconds` from one start to the next, `limit` seconds a run. After
    `failures` in a row its devices count as unhealthy."""

    words: tuple[str, ...]
    resources: tuple[str, ...] = ()
    seconds: float = 10.0
    limit: float = 10.0
    failures: int = 3

    @classmethod
    def words_of(cls, line: str) -> tuple[str, ...]:
        """The words of a command line. Raises InvalidInput. There is no shell: write sh -c '...' for one."""
        try:
            words = tuple(shlex.split(line))
        except ValueError as error:
            raise InvalidInput.of("--command", line, f"quotes do not match: {error}") from error
        if not words:
            raise InvalidInput.of("--command", line, "write a program and its arguments")
        return words

    def __str__(self) -> str:
        return shlex.join(self.words)

    async def read(self) -> Inventory | Failure:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return Failure(f"{self} could not be started: {error.strerror or error}")
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self.limit):
                text, said, code = await asyncio.gather(
                    _up_to(process.stdout, MAX_BYTES + 1), _tail(process.stderr), process.wait()
                )
        except TimeoutError:
            return Failure(f"{self} took longer than {self.limit:g} s and was killed")
        finally:
            # The whole group: what it started may still hold the device.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if code:
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return Failure(f"{self} {ended}" + (f": {said}" if said else ""))
        try:
            return parse_text(_decoded(text), self.resources)
        except InvalidInput as error:
            return Failure.of(f"what {self} printed", error)

    async def follow(self) -> AsyncGenerator[Inventory | Failure, None]:
        loop = asyncio.get_running_loop()
        while True:
            next_at = loop.time() + self.seconds
            yield await self.read()
            await asyncio.sleep(max(0.0, next_at - loop.time()))


Source = File | Command


def _no_file(path: Path, remedy: str) -> Failure:
    return Failure(f"{path}: {remedy}", (FieldError("--file", str(path), remedy),))


def _decoded(text: bytes) -> str:
    if len(text) > MAX_BYTES:
        raise InvalidInput.of("file", f"more than {MAX_BYTES} bytes", "an inventory is smaller than that")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput.of("file", f"byte {error.start}", "write UTF-8 text") from error


async def _up_to(stream: asyncio.StreamReader, size: int) -> bytes:
    """The first `size` bytes; the rest is read and thrown away, so that the writer can end."""
    kept = bytearray()
    while part := await stream.read(65536):
        kept += part[: size - len(kept)]
    return bytes(kept)


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last line that is not blank."""
    kept = b""
    while part := await stream.read(65536):
        kept = (kept + part)[-4096:]
    lines: Sequence[str] = [line.strip() for line in kept.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
