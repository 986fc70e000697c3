"""Pods' output through the API server, which asks the node's kubelet for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from berth.kubernetes.client import Kubernetes, KubernetesError, Unanswered
from binder.domain.executor import LogPiece
from binder.executors.kubernetes_attempt import HeldMember

__all__ = ["read_logs"]


async def read_logs(
    client: Kubernetes, members: Sequence[HeldMember], *, follow: bool, tail_lines: int
) -> AsyncIterator[LogPiece]:
    """All containers of all members, as it comes. What cannot be read is said in the stream, as `stderr`.

    Kubernetes keeps one stream a container: everything is `stdout`.
    """
    pieces: asyncio.Queue[LogPiece | None] = asyncio.Queue(maxsize=64)

    async def container(member: HeldMember, name: str, *, several: bool) -> None:
        path = f"/api/v1/namespaces/{member.pod.namespace}/pods/{member.pod.name}/log"
        query: dict[str, str | int | bool] = {"container": name, "follow": follow}
        if tail_lines:
            query["tailLines"] = tail_lines
        number = member.place.member
        try:
            async with aclosing(client.stream(path, timeout_seconds=0.0 if follow else 30.0, **query)) as chunks:
                async for chunk in chunks:
                    await pieces.put(LogPiece(number, "stdout", chunk))
        except (KubernetesError, Unanswered) as error:
            what = f"pod {member.key}" + (f", container {name}" if several else "")
            text = f"{what}: its output cannot be read: {error}\n"
            await pieces.put(LogPiece(number, "stderr", text.encode()))

    async def one(member: HeldMember) -> None:
        try:
            pod = await client.get(f"/api/v1/namespaces/{member.pod.namespace}/pods/{member.pod.name}")
        except (KubernetesError, Unanswered) as error:
            gone = isinstance(error, KubernetesError) and error.not_found
            words = "is gone, and its output went with it" if gone else f"cannot be read: {error}"
            await pieces.put(LogPiece(member.place.member, "stderr", f"pod {member.key} {words}\n".encode()))
            return
        if member.pod.uid and pod["metadata"]["uid"] != member.pod.uid:
            words = f"pod {member.key} is gone, and its output went with it: another has its name now\n"
            await pieces.put(LogPiece(member.place.member, "stderr", words.encode()))
            return
        names = [str(one["name"]) for one in pod["spec"]["containers"]]
        await asyncio.gather(*(container(member, name, several=len(names) > 1) for name in names))

    async def every() -> None:
        try:
            await asyncio.gather(*(one(member) for member in members))
        finally:
            await pieces.put(None)

    reading = asyncio.create_task(every())
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
