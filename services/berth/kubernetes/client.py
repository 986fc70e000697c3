"""The Kubernetes API: requests with the server's own words in errors, and watches.

Configuration and tokens come from kubernetes_asyncio; objects stay the API's JSON. A request that got no clear answer
raises `Unanswered`: it may or may not have happened, and has to be read back.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.client.rest import RESTClientObject

from berth.errors import InvalidInput

__all__ = ["Gone", "Kubernetes", "KubernetesError", "Object", "Unanswered", "WatchEvent"]

Object: TypeAlias = dict[str, Any]
WatchEvent: TypeAlias = tuple[Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"], Object]

PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
# Statuses after which the server says that nothing happened, or that it does not know.
UNCLEAR_STATUSES = frozenset({500, 502, 503, 504})
LONGEST_LINE = 64 << 20
LONGEST_SILENCE_SECONDS = 90.0


class KubernetesError(Exception):
    """The server's refusal. `status` is HTTP's, `reason` the API's word for it, such as "AlreadyExists"."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message or reason)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None: it does not say."""

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409


class Gone(KubernetesError):
    """410: the resource version is too old, the collection has to be listed again."""


class Unanswered(ConnectionError):
    """No clear answer: cut off, timed out or a server error. The request may or may not have been carried out."""


class Kubernetes:
    """A connection to one API server. `async with await Kubernetes.connect(...)`."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)

    @classmethod
    async def connect(cls, kubeconfig: Path | str | None = None, *, context: str | None = None) -> Self:
        """By the file, else KUBECONFIG, else the service account of the pod, else ~/.kube/config.

        Raises InvalidInput where none of them will do.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(
                    config_file=None if kubeconfig is None else str(kubeconfig),
                    context=context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (config.ConfigException, OSError) as error:
            shown = kubeconfig or os.environ.get("KUBECONFIG", "~/.kube/config")
            raise InvalidInput.of("kubeconfig", shown, f"cannot be used ({error}): name a valid file") from error
        return cls(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._rest.close()

    @property
    def server(self) -> str:
        return str(self._configuration.host)

    async def get(self, path: str, **query: str | int | bool) -> Object:
        return await self.request("GET", path, query=query)

    async def post(self, path: str, body: Object, **query: str | int | bool) -> Object:
        return await self.request("POST", path, body=body, query=query)

    async def put(self, path: str, body: Object, **query: str | int | bool) -> Object:
        return await self.request("PUT", path, body=body, query=query)

    async def patch(
        self,
        path: str,
        body: Any,
        *,
        kind: Literal["merge", "strategic", "json", "apply"] = "merge",
        **query: str | int | bool,
    ) -> Object:
        """`apply`: server-side apply, with `fieldManager` among the query."""
        return await self.request("PATCH", path, body=body, content_type=PATCH_TYPES[kind], query=query)

    async def delete(self, path: str, *, uid: str = "", grace_seconds: int | None = None) -> Object:
        """`uid`: only that very object; another of the same name is a conflict (409)."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return await self.request("DELETE", path, body=options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int | bool] | None = None,
        timeout_seconds: float = 15.0,
    ) -> Object:
        """The answer's document. Raises KubernetesError for a refusal and Unanswered where none came."""
        try:
            async with await self._send(method, path, body, content_type, query, timeout_seconds) as answer:
                text = await answer.read()
                status, headers = answer.status, answer.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(f"{method} {path}: {error!r}") from error
        if status >= 400:
            raise _refusal(f"{method} {path}", status, text, headers)
        try:
            document = json.loads(text) if text else {}
        except ValueError as error:
            raise Unanswered(f"{method} {path}: the answer is no JSON: {text[:200]!r}") from error
        return document if isinstance(document, dict) else {"items": document}

    async def list(self, path: str, *, page: int = 500, **query: Any) -> tuple[list[Object], str]:
        """All objects of a collection, page by page, and the resource version to watch from."""
        found: list[Object] = []
        token = ""
        while True:
            more = {"continue": token} if token else {}
            answer = await self.get(path, limit=page, **query, **more)
            items = answer.get("items") or []
            # Items of a list carry no kind of their own.
            kind, version = str(answer.get("kind", "")).removesuffix("List"), answer.get("apiVersion", "")
            for item in items:
                item.setdefault("kind", kind)
                item.setdefault("apiVersion", version)
            found.extend(items)
            token = answer.get("metadata", {}).get("continue", "")
            if not token:
                return found, str(answer.get("metadata", {}).get("resourceVersion", ""))

    async def watch(
        self, path: str, resource_version: str, *, timeout_seconds: int = 240, **query: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        """What happens after `resource_version`, until the server ends the watch. Raises Gone for a version that is
        too old, KubernetesError for another refusal and Unanswered where the connection breaks."""
        asked: dict[str, str | int | bool] = {
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": resource_version,
            "timeoutSeconds": timeout_seconds,
            **query,
        }
        try:
            answer = await self._send("GET", path, None, "application/json", asked, timeout_seconds + 30.0)
            async with answer:
                if answer.status >= 400:
                    raise _refusal(f"watch {path}", answer.status, await answer.read(), answer.headers)
                async with aclosing(_lines(answer.content)) as lines:
                    async for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            status = event["object"]
                            raise _refusal(f"watch {path}", int(status.get("code", 500)), json.dumps(status).encode())
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error, Unanswered):
                raise
            raise Unanswered(f"watch {path}: {error!r}") from error

    async def stream(
        self, path: str, *, timeout_seconds: float = 0.0, **query: str | int | bool
    ) -> AsyncGenerator[bytes, None]:
        """The answer's bytes as they come, such as a log that is followed; `timeout_seconds` 0: without end."""
        try:
            total = timeout_seconds or 10 * 365 * 86400.0
            async with await self._send("GET", path, None, "application/json", query, total) as answer:
                if answer.status >= 400:
                    raise _refusal(f"GET {path}", answer.status, await answer.read(), answer.headers)
                async for chunk in answer.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error, Unanswered):
                raise
            raise Unanswered(f"GET {path}: {error!r}") from error

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str,
        query: Mapping[str, str | int | bool] | None,
        timeout_seconds: float,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "berth"}
        for setting in (await self._configuration.auth_settings()).values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        params = {
            key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in (query or {}).items()
        }
        answer: aiohttp.ClientResponse = await self._rest.request(
            method,
            self.server + path,
            query_params=params or None,
            headers=headers,
            body=body,
            _preload_content=False,
            # A watch hears a bookmark each minute: a server that vanished is not waited for until the watch would end.
            _request_timeout=aiohttp.ClientTimeout(
                total=timeout_seconds, sock_connect=min(5.0, timeout_seconds), sock_read=LONGEST_SILENCE_SECONDS
            ),
        )
        return answer


async def _lines(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Whole lines, however long: aiohttp's own reader refuses long ones."""
    rest = bytearray()
    async for chunk in stream.iter_any():
        rest += chunk
        if len(rest) > LONGEST_LINE:
            raise ValueError(f"a watch event is longer than {LONGEST_LINE} bytes")
        if b"\n" in chunk:
            *whole, left = bytes(rest).split(b"\n")
            rest = bytearray(left)
            for line in whole:
                if line.strip():
                    yield line
        # A long backlog must not starve what else runs.
        await asyncio.sleep(0)


def _refusal(
    what: str, status: int, text: bytes, headers: Mapping[str, str] | None = None
) -> KubernetesError | Unanswered:
    reason, message = "", text[:500].decode(errors="replace")
    try:
        document = json.loads(text)
        reason, message = str(document.get("reason", "")), str(document.get("message", message))
    except (ValueError, AttributeError):
        pass
    retry_after = (headers or {}).get("Retry-After", "")
    if status in UNCLEAR_STATUSES:
        return Unanswered(f"{what}: {status} {message}")
    made = Gone if status == 410 else KubernetesError
    return made(status, reason, message, retry_after=float(retry_after) if retry_after.isdigit() else None)
