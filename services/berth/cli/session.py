"""A command's connection to the system: found through the context file, opened when first used."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from berth.embedded.context import Context, NoContext, context_path

if TYPE_CHECKING:
    import grpc

    from berth.v1.binding_pb2_grpc import BindingServiceAsyncStub
    from berth.v1.placement_pb2_grpc import PlacementServiceAsyncStub
    from berth.v1.profiles_pb2_grpc import ProfileServiceAsyncStub
    from berth.v1.telemetry_pb2_grpc import TelemetryServiceAsyncStub

__all__ = ["Session", "connected", "session_options"]

Body = TypeVar("Body", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """Stubs of the four services. Close it with `close`."""

    context: Context
    token: str = ""
    _channels: dict[str, "grpc.aio.Channel"] = field(default_factory=dict)

    def channel(self, service: str) -> "grpc.aio.Channel":
        from berth.grpc import connect

        if service not in self._channels:
            address = self.context.services.get(service)
            if address is None:
                raise NoContext(f"the context file names no address of {service}: add it under `services`")
            self._channels[service] = connect(address, self.token or self.context.token or None)
        return self._channels[service]

    @property
    def placement(self) -> "PlacementServiceAsyncStub":
        from berth.v1.placement_pb2_grpc import PlacementServiceStub

        return PlacementServiceStub(self.channel("placement_engine"))

    @property
    def telemetry(self) -> "TelemetryServiceAsyncStub":
        from berth.v1.telemetry_pb2_grpc import TelemetryServiceStub

        return TelemetryServiceStub(self.channel("telemetry_ingest"))

    @property
    def profiles(self) -> "ProfileServiceAsyncStub":
        from berth.v1.profiles_pb2_grpc import ProfileServiceStub

        return ProfileServiceStub(self.channel("profile_store"))

    @property
    def binding(self) -> "BindingServiceAsyncStub":
        from berth.v1.binding_pb2_grpc import BindingServiceStub

        return BindingServiceStub(self.channel("binder"))

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def session_options(function: Body) -> Body:
    """--context and --token, as `context_file` and `token`: which system a command talks to, and as whom."""
    token = click.option("--token", envvar="BERTH_TOKEN", default="", help="Access token [BERTH_TOKEN]")
    context = click.option(
        "--context",
        "context_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Context file of the system to talk to [BERTH_CONTEXT]",
    )
    return context(token(function))


def connected(function: Callable[..., Awaitable[int | None]]) -> Callable[..., int]:
    """Makes an async function `(session, ...)` the body of a command, with --context and --token.

    What it returns is the exit code; None is 0.
    """

    @session_options
    @functools.wraps(function)
    def command(context_file: Path | None, token: str, **arguments: Any) -> int:
        context = Context.load(context_path(context_file))

        async def run() -> int:
            session = Session(context, token)
            try:
                return await function(session, **arguments) or 0
            finally:
                await session.close()

        return asyncio.run(run())

    return command
