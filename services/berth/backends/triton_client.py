"""NVIDIA Triton's HTTP API, as far as Berth needs it.

Triton says no in its own words: those are kept in Refused. Whatever leaves open whether a change happened (no
connection, no answer in time, a 5xx from the server or from something in front of it) is Unanswered, and Unreachable
where the server itself said nothing. That a model is not there is believed in Triton's own words alone.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from berth.backends.base import Refused, Unanswered, Unreachable

__all__ = ["TritonClient"]

ANSWER_SECONDS = 10.0
WORDS = 2000
PIECE_BYTES = 3 * 2**16
"""Of a file, encoded at once: a multiple of 3, as base64 wants it."""

# Triton answers 500 to a configuration that it cannot read, and has then changed nothing.
_NO_ALL_THE_SAME = ("failed to poll from model repository",)
# What it says of a model that it does not have, or not ready: no error, an answer.
_NOT_THERE = ("is not found", "has no available versions", "is not available", "is not at ready state")


class TritonClient:
    """One server. `answer_seconds`: for what it answers at once; `load_seconds`: for loading and unloading a model."""

    def __init__(self, address: str, *, answer_seconds: float = ANSWER_SECONDS, load_seconds: float = 600.0) -> None:
        self.address = address.rstrip("/")
        self._answer_seconds = answer_seconds
        self._load_seconds = load_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ready(self) -> bool:
        """Whether the server takes requests. No answer is no."""
        try:
            status, _ = await self._ask("GET", "/v2/health/ready")
        except Unanswered:
            return False
        return status == 200

    async def index(self) -> list[dict[str, Any]]:
        """Models of the repository's folders. What was loaded with its files is not among them: see `loaded`."""
        return list(await self._document("POST", "/v2/repository/index", {}))

    async def loaded(self) -> tuple[str, ...]:
        """Names of all models that are ready."""
        found = await self._document("GET", "/v2/models/stats")
        return tuple(dict.fromkeys(str(one["name"]) for one in found["model_stats"]))

    async def load(self, name: str, configuration: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Returns once the model is ready. The same again changes nothing. Raises Refused, Unanswered."""
        written = json.dumps({**configuration, "name": name}, sort_keys=True)
        path = f"/v2/repository/models/{_quoted(name)}/load"
        # Never whole in memory a second time: base64 of 2 GiB would also hold up everything else for seconds.
        body = _Streamed(written, files)
        self._read(*await self._ask("POST", path, body, seconds=self._load_seconds))

    async def unload(self, name: str) -> None:
        """Triton waits for a load of it that is under way; what is not there is no error. Raises Unanswered."""
        path = f"/v2/repository/models/{_quoted(name)}/unload"
        await self._document("POST", path, {}, seconds=self._load_seconds)

    async def model_ready(self, name: str) -> bool:
        status, words = await self._ask("GET", f"/v2/models/{_quoted(name)}/ready")
        # Triton says no with an empty answer or with an error in its form; anything else is not its own.
        if status != 200 and words and not _error(words):
            raise Unreachable(self._not_tritons(status, words))
        if status >= 500:
            raise Unanswered(f"Triton at {self.address}: {status}: {words[:WORDS]}")
        return status == 200

    async def configuration(self, name: str) -> dict[str, Any] | None:
        """As the server holds it; None where it has no such model, or has it not ready. Raises Unanswered."""
        return await self._of_model(f"/v2/models/{_quoted(name)}/config")

    async def statistics(self, name: str) -> dict[str, Any] | None:
        """Counts and nanoseconds since it was loaded; None where it is not ready."""
        found = await self._of_model(f"/v2/models/{_quoted(name)}/stats")
        return None if found is None else dict(found["model_stats"][0])

    async def infer(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request and its answer as JSON. Raises Refused with Triton's words, Unanswered."""
        found = await self._document("POST", f"/v2/models/{_quoted(name)}/infer", request, seconds=self._load_seconds)
        return dict(found)

    async def _of_model(self, path: str) -> dict[str, Any] | None:
        status, text = await self._ask("GET", path)
        if status != 200 and any(one in _error(text) for one in _NOT_THERE):
            return None
        if 400 <= status < 500:
            # Of a proxy, or of another server: it says nothing of the model.
            raise Unreachable(self._not_tritons(status, text))
        return dict(self._read(status, text))

    def _not_tritons(self, status: int, text: str) -> str:
        return f"{self.address} does not answer as Triton does: {status}: {text.strip()[:200]}"

    async def _document(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float | None = None
    ) -> Any:
        return self._read(*await self._ask(method, path, body, seconds=seconds))

    def _read(self, status: int, text: str) -> Any:
        if status == 200:
            try:
                return json.loads(text) if text else {}
            except ValueError as error:
                raise Unreachable(f"{self.address} is no Triton server: it answered {text[:200]!r}") from error
        words = _words(text)
        if 400 <= status < 500 or any(one in words for one in _NO_ALL_THE_SAME):
            raise Refused(words or f"Triton at {self.address} answered {status}")
        kind = Unanswered if _error(text) else Unreachable
        raise kind(f"Triton at {self.address}: {status}: {words}")

    async def _ask(
        self,
        method: str,
        path: str,
        body: "Mapping[str, Any] | _Streamed | None" = None,
        *,
        seconds: float | None = None,
    ) -> tuple[int, str]:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        limit = aiohttp.ClientTimeout(total=seconds or self._answer_seconds, sock_connect=self._answer_seconds)
        sent: dict[str, Any] = {"json": body}
        if isinstance(body, _Streamed):
            sent = {"data": body.pieces(), "headers": body.headers()}
        try:
            async with self._session.request(method, self.address + path, timeout=limit, **sent) as answer:
                return answer.status, await answer.text(errors="replace")
        except TimeoutError as error:
            raise Unreachable(f"Triton at {self.address} gave no answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"Triton at {self.address} cannot be asked: {error}") from error


class _Streamed:
    """The JSON of a load, made while it is sent."""

    def __init__(self, configuration: str, files: Mapping[str, bytes]) -> None:
        first = f'{{"parameters": {{"config": {json.dumps(configuration)}'
        self._parts: list[tuple[bytes, bytes]] = [(first.encode(), b"")]
        for path in sorted(files):
            self._parts.append((f', {json.dumps(f"file:{path}")}: "'.encode(), files[path]))

    def headers(self) -> dict[str, str]:
        # Triton's HTTP server wants to know the length; without it the body would go in chunks.
        length = sum(len(before) + 4 * -(-len(content) // 3) for before, content in self._parts)
        return {"Content-Type": "application/json", "Content-Length": str(length + len(self._parts) - 1 + 2)}

    async def pieces(self) -> AsyncIterator[bytes]:
        for number, (before, content) in enumerate(self._parts):
            yield before
            view = memoryview(content)
            for at in range(0, len(view), PIECE_BYTES):
                yield base64.b64encode(view[at : at + PIECE_BYTES])
                # A socket that takes all at once would leave no turn to others.
                await asyncio.sleep(0)
            if number:
                yield b'"'
        yield b"}}"


def _error(text: str) -> str:
    """What stands in {"error": ...}; "" where the answer is not of that form."""
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    return str(found.get("error", "")).strip()[:WORDS] if isinstance(found, dict) else ""


def _words(text: str) -> str:
    return _error(text) or text.strip()[:WORDS]


def _quoted(name: str) -> str:
    return quote(name, safe="")
