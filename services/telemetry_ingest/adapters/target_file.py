"""The targets file, watched. A broken file changes nothing: the previous targets stay, and it is said why."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import yaml

from berth.errors import InvalidInput
from telemetry_ingest.domain.targets import NodeDeclaration, parse_targets

__all__ = ["TargetFile", "read_targets"]

log = structlog.get_logger(__name__)

LARGEST = 64 << 20


def read_targets(path: Path) -> tuple[tuple[NodeDeclaration, ...], bytes]:
    """The file's nodes and a digest of its bytes. Raises InvalidInput and OSError."""
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise InvalidInput.of("targets_file", path, f"is larger than {LARGEST} bytes: split the fleet")
    try:
        # JSON is YAML; the C loader is some ten times faster.
        document = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise InvalidInput.of(
            "targets_file", where, f"is no YAML or JSON: {getattr(error, 'problem', error)}"
        ) from None
    return parse_targets(document), hashlib.sha256(raw).digest()


class TargetFile:
    """Looks at the file every `poll_seconds`; `changed` gets each new valid content."""

    def __init__(
        self,
        path: Path,
        changed: Callable[[tuple[NodeDeclaration, ...]], Awaitable[None]],
        *,
        poll_seconds: float = 0.5,
    ) -> None:
        self._path = path
        self._changed = changed
        self._poll_seconds = poll_seconds
        self._stamp: tuple[int, int, int] | None = None
        self._digest = b""
        self.error = ""
        """What is wrong with the file at present; "" where nothing is."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Reads the file where it changed since the last look."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            declarations, digest = await asyncio.to_thread(read_targets, self._path)
            if digest != self._digest:
                await self._changed(declarations)
                self._digest = digest
                log.info("targets file read", path=str(self._path), nodes=len(declarations))
            self._stamp = stamp
            self.error = ""
        except InvalidInput as error:
            self._stamp = stamp
            self._complain(str(error))
        except OSError as error:
            self._stamp = None
            self._complain(f"targets_file: '{self._path}': {error.strerror or error}: the previous targets stay")

    def _complain(self, message: str) -> None:
        if message != self.error:
            log.error("targets file not taken; the previous targets stay", path=str(self._path), error=message)
        self.error = message
