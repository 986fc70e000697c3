"""gRPC servers and channels: health, reflection, who is calling, and errors as status codes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from berth.auth import Authenticator, set_principal
from berth.errors import BerthError, InvalidInput
from berth.postgres import TRANSIENT

__all__ = ["GrpcServer", "connect"]

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_OPEN_METHODS = ("/grpc.health.v1.Health/", "/grpc.reflection.")


def _status(error: BaseException) -> Any:
    """The google.rpc.Status of an error; InvalidInput carries one field violation for each field."""
    if isinstance(error, BerthError):
        status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=str(error))
        if isinstance(error, InvalidInput):
            detail = any_pb2.Any()
            detail.Pack(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=one.field, description=f"{one.value!r}: {one.remedy}"
                        )
                        for one in error.errors
                    ]
                )
            )
            status.details.append(detail)
        return rpc_status.to_status(status)
    if isinstance(error, TRANSIENT):
        return rpc_status.to_status(
            status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the database is away; try again")
        )
    log.error("call failed", exc_info=error)
    return rpc_status.to_status(status_pb2.Status(code=code_pb2.INTERNAL, message="internal error; see the logs"))


class _Guard(grpc.aio.ServerInterceptor):
    """Finds out who calls, and turns errors into statuses."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN_METHODS):
            return handler
        authorization = dict(handler_call_details.invocation_metadata or ()).get("authorization")
        authenticator = self._authenticator

        def admit() -> None:
            value = authorization.decode() if isinstance(authorization, bytes) else authorization
            set_principal(authenticator.authenticate(value))

        if handler.response_streaming:
            inner_stream = handler.unary_stream or handler.stream_stream

            async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    admit()
                    async for response in inner_stream(request, context):
                        yield response
                except (grpc.aio.AbortError, grpc.RpcError):
                    raise
                except Exception as error:
                    await context.abort_with_status(_status(error))

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(streaming, handler.request_deserializer, handler.response_serializer)

        inner_unary = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def unary(request: Any, context: Any) -> Any:
            try:
                admit()
                return await inner_unary(request, context)
            except (grpc.aio.AbortError, grpc.RpcError):
                raise
            except Exception as error:
                await context.abort_with_status(_status(error))

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(unary, handler.request_deserializer, handler.response_serializer)


class GrpcServer:
    """One service's gRPC server. `services`: (add function of the stub, servicer, full service name)."""

    def __init__(
        self,
        listen: str,
        authenticator: Authenticator,
        services: Sequence[tuple[Callable[[Any, Any], None], Any, str]],
    ) -> None:
        self._listen = listen
        self._server = grpc.aio.server(
            interceptors=[_Guard(authenticator)],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [name for _, _, name in services]
        for add, servicer, _ in services:
            add(servicer, self._server)
        reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Listens; gives the real address, with the port that was found for port 0."""
        port = self._server.add_insecure_port(self._listen)
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def stop(self, grace_seconds: float = 1.0) -> None:
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def connect(address: str, token: str | None = None, *, longest_retry_seconds: float = 120.0) -> grpc.aio.Channel:
    """A channel to one of Berth's services; close it when done. A lost connection is tried again at least every
    `longest_retry_seconds`."""
    interceptors: list[grpc.aio.ClientInterceptor] = []
    if token:
        interceptors = [_UnaryToken(token), _UnaryStreamToken(token), _StreamUnaryToken(token)]
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_reconnect_backoff_ms", round(longest_retry_seconds * 1000)),
        ],
        interceptors=interceptors,
    )


class _Token:
    def __init__(self, token: str) -> None:
        self._token = token

    async def _forward(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._token}")
        return await continuation(details._replace(metadata=metadata), request)


class _UnaryToken(_Token, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._forward(continuation, client_call_details, request)


class _UnaryStreamToken(_Token, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._forward(continuation, client_call_details, request)


class _StreamUnaryToken(_Token, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._forward(continuation, client_call_details, request_iterator)
