"""A model folder of NVIDIA Triton: config.pbtxt, read as protobuf's text format, and numbered version folders."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput
from berth.models.artefact import Tensor

__all__ = ["CONFIGURATION", "read_folder", "read_text"]

CONFIGURATION = "config.pbtxt"
MAX_DEPTH = 64
MAX_BYTES = 4 * 2**20
_TOKEN = re.compile(
    r"""(?P<space>[\s;]+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<word>-?[A-Za-z0-9_.+][A-Za-z0-9_.+-]*)|(?P<sign>[{}<>\[\]:,])"""
)
_TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "bfloat16", "STRING": "object",
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_folder(folder: Path) -> tuple[str, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The model's name, inputs and outputs. Where it batches, a free first dimension is theirs. Raises InvalidInput."""
    path = folder / CONFIGURATION
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput.of(CONFIGURATION, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}")
        configuration = read_text(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput.of(CONFIGURATION, path, f"{error.strerror}: give a folder that can be read") from error
    except UnicodeDecodeError as error:
        raise InvalidInput.of(CONFIGURATION, path, "it is no UTF-8 text: write protobuf's text format") from error
    versions = [one for one in folder.iterdir() if one.name.isdigit() and one.is_dir() and any(one.iterdir())]
    if not versions:
        raise InvalidInput.of("folder", folder, "it has no version folder that holds a model, such as 1/model.onnx")
    batching = _whole(configuration, "max_batch_size", 0) > 0
    name = _single(configuration, "name", folder.name)
    return (
        name,
        tuple(_tensor("input", one, batching) for one in configuration.get("input", ())),
        tuple(_tensor("output", one, batching) for one in configuration.get("output", ())),
    )


def read_text(text: str) -> dict[str, list[Any]]:
    """Every field with its values in order: texts, numbers as they are written, or messages. Raises InvalidInput."""
    tokens = list(_tokens(text))
    message, at = _message(tokens, 0, "", 0)
    if at != len(tokens):
        raise _wrong(tokens, at, "one bracket too many")
    return message


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise InvalidInput.of(CONFIGURATION, f"line {line}: {text[at : at + 20]!r}", "write protobuf's text format")
        if match.lastgroup != "space":
            yield match[0], line
        line += match[0].count("\n")
        at = match.end()


def _wrong(tokens: list[tuple[str, int]], at: int, remedy: str) -> InvalidInput:
    word, line = tokens[at] if at < len(tokens) else ("the end", tokens[-1][1] if tokens else 1)
    return InvalidInput.of(CONFIGURATION, f"line {line}: {word}", f"{remedy}: write protobuf's text format")


def _message(tokens: list[tuple[str, int]], at: int, end: str, depth: int) -> tuple[dict[str, list[Any]], int]:
    if depth > MAX_DEPTH:
        raise _wrong(tokens, at, f"more than {MAX_DEPTH} messages within each other")
    made: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at][0] != end:
        name = tokens[at][0]
        if name == ",":
            at += 1
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise _wrong(tokens, at, "a field's name must stand here")
        at += 1
        colon = at < len(tokens) and tokens[at][0] == ":"
        at += colon
        values, at = _values(tokens, at, colon, depth)
        made.setdefault(name, []).extend(values)
    if end and at >= len(tokens):
        raise _wrong(tokens, at, f"{end!r} is missing")
    return made, at


def _values(tokens: list[tuple[str, int]], at: int, colon: bool, depth: int) -> tuple[list[Any], int]:
    if at >= len(tokens):
        raise _wrong(tokens, at, "a value is missing")
    word = tokens[at][0]
    if word in "{<":
        end = "}" if word == "{" else ">"
        message, at = _message(tokens, at + 1, end, depth + 1)
        return [message], at + 1
    if word == "[":
        found: list[Any] = []
        at += 1
        while at < len(tokens) and tokens[at][0] != "]":
            if tokens[at][0] == ",":
                at += 1
                continue
            if tokens[at][0] == "[":
                raise _wrong(tokens, at, "a list within a list")
            values, at = _values(tokens, at, True, depth)
            found += values
        if at >= len(tokens):
            raise _wrong(tokens, at, "']' is missing")
        return found, at + 1
    if not colon or word in "}>]:,":
        raise _wrong(tokens, at, "':' and a value must stand here")
    if word[0] not in "\"'":
        return [word], at + 1
    text = ""
    # Texts that follow each other are one.
    while at < len(tokens) and tokens[at][0][0] in "\"'":
        text += re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), tokens[at][0][1:-1])
        at += 1
    return [text], at


def _single(message: dict[str, list[Any]], field: str, default: str) -> str:
    value = message.get(field, [default])[-1]
    if not isinstance(value, str):
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", value, "write one value")
    return value


def _whole(message: dict[str, list[Any]], field: str, default: int) -> int:
    text = _single(message, field, str(default))
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", text, "write a whole number")
    return int(text)


def _tensor(field: str, message: Any, batching: bool) -> Tensor:
    if not isinstance(message, dict):
        raise InvalidInput.of(f"{CONFIGURATION}: {field}", message, "write name, data_type and dims of each")
    name = _single(message, "name", "")
    kind = _single(message, "data_type", "")
    dtype = _TYPES.get(kind.removeprefix("TYPE_"))
    if not name:
        raise InvalidInput.of(f"{CONFIGURATION}: {field}.name", "", "give each its name")
    if dtype is None:
        known = ", ".join(f"TYPE_{one}" for one in _TYPES)
        raise InvalidInput.of(f"{CONFIGURATION}: {field}.data_type", kind, f"write one of: {known}")
    shape: list[int | None] = [None] if batching else []
    for one in message.get("dims", ()):
        if not isinstance(one, str) or not re.fullmatch(r"-1|\d{1,12}", one):
            raise InvalidInput.of(f"{CONFIGURATION}: {field}.dims", one, "write sizes, and -1 where one is free")
        shape.append(None if one == "-1" else int(one))
    return Tensor(name, dtype, tuple(shape))
