"""The folder of a served name, and of a compiled model: what stands there outlives whoever wrote it."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.backends import launcher

__all__ = ["Intent", "afresh", "intent_of", "started_of", "told_of", "write"]


@dataclass(frozen=True, slots=True)
class Intent:
    """What a served name's folder says was wanted."""

    digest: str
    port: int


def write(path: Path, text: str) -> None:
    """Replaces `path` as a whole."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)


def afresh(folder: Path, content: Path, copy: Path, output: Path) -> None:
    """An empty folder with a copy of the artefact: the model must outlive the file that it came as."""
    shutil.rmtree(folder, ignore_errors=True)
    output.mkdir(parents=True, mode=0o700)
    copy.parent.mkdir()
    if content.is_dir():
        shutil.copytree(content, copy)
    else:
        shutil.copyfile(content, copy)


def read(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of ours; empty where it is not there or is none."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def intent_of(folder: Path) -> Intent | None:
    found = read(folder, "intent.json")
    try:
        return Intent(str(found["digest"]), int(found["port"]))
    except (KeyError, TypeError, ValueError):
        return None


def told_of(folder: Path) -> dict[str, str]:
    values = read(folder, "intent.json").get("values")
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}


def started_of(folder: Path) -> tuple[int, int] | None:
    """Process id and start time of what was started in this boot."""
    found = read(folder, "started")
    try:
        return (int(found["pid"]), int(found["start"])) if found["boot"] == launcher.boot_id() else None
    except (KeyError, TypeError, ValueError):
        return None
