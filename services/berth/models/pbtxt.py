"""Triton's config.pbtxt as the JSON that its load API takes: protobuf's text format, read without its schema.

Which fields repeat or are maps is the one thing that the text does not say; those of ModelConfig are listed here.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from berth.errors import InvalidInput

__all__ = ["parse"]

_REPEATED = frozenset(
    [
        "input",
        "output",
        "dims",
        "shape",
        "instance_group",
        "gpus",
        "secondary_devices",
        "profile",
        "versions",
        "batch_input",
        "batch_output",
        "target_name",
        "source_input",
        "preferred_batch_size",
        "control_input",
        "control",
        "int32_false_true",
        "fp32_false_true",
        "bool_false_true",
        "state",
        "initial_state",
        "step",
        "model_warmup",
        "agents",
        "execution_accelerators",
        "gpu_execution_accelerator",
        "cpu_execution_accelerator",
        "graph_spec",
        "resources",
        "model_repository_agents",
    ]
)
_MAPS = frozenset(
    ["parameters", "metric_tags", "cc_model_filenames", "input_map", "output_map", "inputs", "priority_queue_policy"]
)
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<mark>[{}\[\]<>:,;])|(?P<word>[^\s{}\[\]<>:,;"'\#]+)"""
)
_DEPTH = 30


def parse(text: str) -> dict[str, Any]:
    """Raises InvalidInput that names the line."""
    reader = _Reader(text)
    return reader.message(None, 0)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._line = 1
        self._tokens = self._scan()
        self._next = next(self._tokens, None)

    def _scan(self) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._wrong(self._text[at : at + 20])
            if match.lastgroup is not None:
                yield match.lastgroup, match.group()
            self._line += match.group().count("\n")
            at = match.end()

    def _wrong(self, value: str) -> InvalidInput:
        return InvalidInput.of(
            f"config.pbtxt line {self._line}", value, "write protobuf's text format, as Triton reads"
        )

    def _take(self) -> tuple[str, str]:
        if self._next is None:
            raise self._wrong("the end of the file")
        taken, self._next = self._next, next(self._tokens, None)
        return taken

    def _skip(self, marks: str) -> bool:
        if self._next is not None and self._next[0] == "mark" and self._next[1] in marks:
            self._take()
            return True
        return False

    def message(self, end: str | None, depth: int) -> dict[str, Any]:
        if depth > _DEPTH:
            raise self._wrong("nested too deeply")
        made: dict[str, Any] = {}
        while True:
            if end is None and self._next is None:
                return made
            kind, name = self._take()
            if end is not None and (kind, name) == ("mark", end):
                return made
            if kind != "word" or not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise self._wrong(name)
            if not self._skip(":") and (self._next is None or self._next[1] not in ("{", "<", "[")):
                raise self._wrong(name)
            for value in self._values(depth):
                if name in _MAPS:
                    if not isinstance(value, dict) or "key" not in value:
                        raise self._wrong(f"{name}: an entry without key")
                    if name == "parameters" and not isinstance(value.get("value", {}), dict):
                        raise self._wrong(f"{name}: {value['key']}: its value is no message")
                    made.setdefault(name, {})[str(value["key"])] = value.get("value", {})
                elif name in _REPEATED:
                    made.setdefault(name, []).append(value)
                else:
                    made[name] = value
            self._skip(",;")

    def _values(self, depth: int) -> list[Any]:
        if not self._skip("["):
            return [self._value(depth)]
        found = []
        while not self._skip("]"):
            found.append(self._value(depth))
            self._skip(",")
        return found

    def _value(self, depth: int) -> Any:
        kind, token = self._take()
        if (kind, token) == ("mark", "{"):
            return self.message("}", depth + 1)
        if (kind, token) == ("mark", "<"):
            return self.message(">", depth + 1)
        if kind == "text":
            text = _unescaped(token)
            while self._next is not None and self._next[0] == "text":
                text += _unescaped(self._take()[1])
            return text
        if kind != "word":
            raise self._wrong(token)
        if token.lower() in ("true", "false"):
            return token.lower() == "true"
        for number in (int, float):
            try:
                made = number(token)
            except ValueError:
                continue
            if isinstance(made, float) and not math.isfinite(made):
                raise self._wrong(token)
            return made
        return token


def _unescaped(token: str) -> str:
    plain = token[1:-1]
    if "\\" not in plain:
        return plain
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), plain)
