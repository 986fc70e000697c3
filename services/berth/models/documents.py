"""An artefact as a document, in model.yaml and `-o json`, and back: every field checked."""

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.models.artefact import FORMATS, Analysis, Artefact, Tensor

__all__ = ["FIELDS", "artefact_document", "parse_artefact"]

FIELDS = ("name", "format", "file", "digest", "content_bytes", "inputs", "outputs", "platforms", "custom_calls",
          "analysis", "by_platform", "berth")  # fmt: skip
HEX = frozenset("0123456789abcdef")
_BYTES = ("constant_bytes", "argument_bytes", "output_bytes", "temporary_bytes")
_PLACES = ("unknown_loops", "uncounted_calls")


def artefact_document(artefact: Artefact) -> dict[str, Any]:
    """As model.yaml and `-o json` have it; what is unknown is null."""

    def tensors(given: tuple[Tensor, ...]) -> list[dict[str, Any]]:
        return [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in given]

    def costs(given: Analysis) -> dict[str, Any]:
        return {**asdict(given), **{name: list(getattr(given, name)) for name in _PLACES}}

    return {
        "name": artefact.name,
        "format": artefact.format,
        "digest": artefact.digest,
        "content_bytes": artefact.content_bytes,
        "inputs": tensors(artefact.inputs),
        "outputs": tensors(artefact.outputs),
        "platforms": list(artefact.platforms),
        "custom_calls": dict(artefact.custom_calls),
        "analysis": None if artefact.analysis is None else costs(artefact.analysis),
        "by_platform": {name: costs(given) for name, given in artefact.by_platform.items()},
    }


def parse_artefact(document: Mapping[Any, Any], source: str) -> Artefact:
    """`source`: goes before the names of fields. Raises InvalidInput with every error found."""
    reader = _Reader(document, source)
    artefact = reader.artefact()
    if reader.errors:
        raise InvalidInput(reader.errors)
    return artefact


class _Reader:
    def __init__(self, document: Mapping[Any, Any], source: str) -> None:
        self.document, self.source = document, source
        self.errors: list[FieldError] = []

    def fail(self, field: str, value: object, remedy: str) -> None:
        # A few lines of YAML can mean a value of gigabytes: only its beginning is ever written out.
        shown = value[:200] if isinstance(value, str) else reprlib.repr(value)
        self.errors.append(FieldError(f"{self.source}: {field[:200]}", shown, f"{remedy}; or write the package again"))

    def artefact(self) -> Artefact:
        document = self.document
        for name in document:
            if name not in FIELDS:
                self.fail(
                    name if isinstance(name, str) else reprlib.repr(name),
                    document[name],
                    f"unknown field; known: {', '.join(FIELDS)}",
                )
        self._holds("name", lambda value: isinstance(value, str) and 0 < len(value) <= 255, "write a name")
        self._holds("format", lambda value: value in FORMATS, f"write one of: {', '.join(FORMATS)}")
        self._holds(
            "digest", lambda value: isinstance(value, str) and len(value) == 64 and not set(value) - HEX,
            "write SHA-256 in hex",
        )  # fmt: skip
        self._holds("content_bytes", _is_size, "write a whole number, 0 or more")
        platforms, calls = document.get("platforms") or [], document.get("custom_calls") or {}
        if not isinstance(platforms, list) or not all(isinstance(one, str) for one in platforms):
            self.fail("platforms", platforms, "write a list of texts")
            platforms = []
        if not isinstance(calls, Mapping) or not all(isinstance(one, str) and _is_size(n) for one, n in calls.items()):
            self.fail("custom_calls", calls, "write a mapping of targets to whole numbers")
            calls = {}
        return Artefact(
            name=str(document.get("name")),
            format=str(document.get("format")),
            digest=str(document.get("digest")),
            content_bytes=document["content_bytes"] if _is_size(document.get("content_bytes")) else 0,
            inputs=self._tensors("inputs"),
            outputs=self._tensors("outputs"),
            platforms=tuple(platforms),
            custom_calls=dict(calls),
            analysis=self._analysis("analysis", document.get("analysis")),
            by_platform=self._by_platform(platforms),
        )

    def _holds(self, field: str, test: Callable[[Any], bool], remedy: str) -> None:
        if not test(self.document.get(field)):
            self.fail(field, self.document.get(field), remedy)

    def _tensors(self, field: str) -> tuple[Tensor, ...]:
        given = self.document.get(field) or []
        made = []
        for one in given if isinstance(given, list) else [given]:
            shape = one.get("shape") if isinstance(one, Mapping) else None
            if (
                not isinstance(one, Mapping)
                or not (isinstance(one.get("name"), str) and isinstance(one.get("dtype"), str))
                or not isinstance(shape, list)
                or not all(size is None or _is_size(size) for size in shape)
            ):
                self.fail(field, one, "write name, dtype and shape of each, null for a free dimension")
                continue
            made.append(Tensor(one["name"], one["dtype"], tuple(shape)))
        return tuple(made)

    def _by_platform(self, platforms: list[str]) -> dict[str, Analysis]:
        given = self.document.get("by_platform") or {}
        if not isinstance(given, Mapping) or any(name not in platforms for name in given):
            self.fail("by_platform", given, "write a mapping of the platforms above to an analysis each")
            return {}
        made = {name: self._analysis(f"by_platform.{name}", one) for name, one in given.items()}
        return {name: one for name, one in made.items() if one is not None}

    def _analysis(self, field: str, given: Any) -> Analysis | None:
        if given is None:
            return None
        known = ("operations", "bytes_moved", "by_precision", *_BYTES, *_PLACES)
        if not isinstance(given, Mapping) or any(name not in known for name in given):
            self.fail(field, given, f"write a mapping with {', '.join(known)}")
            return None
        for name in ("operations", "bytes_moved"):
            if given.get(name) is not None and not _is_amount(given[name]):
                self.fail(f"{field}.{name}", given[name], "write a finite number, 0 or more, or null")
                return None
        for name in _BYTES:
            if given.get(name) is not None and not _is_size(given[name]):
                self.fail(f"{field}.{name}", given[name], "write a whole number, 0 or more, or null")
                return None
        shares = given.get("by_precision") or {}
        places = {name: given.get(name) or [] for name in _PLACES}
        if not isinstance(shares, Mapping) or not all(_is_amount(one) for one in shares.values()):
            self.fail(f"{field}.by_precision", shares, "write a mapping of precisions to numbers")
            return None
        for name, one in places.items():
            if not isinstance(one, list) or not all(isinstance(text, str) for text in one):
                self.fail(f"{field}.{name}", one, "write a list of texts")
                return None
        return Analysis(
            operations=_number(given.get("operations")),
            bytes_moved=_number(given.get("bytes_moved")),
            by_precision={str(name): float(count) for name, count in shares.items()},
            **{name: given.get(name) for name in _BYTES},
            unknown_loops=tuple(places["unknown_loops"]),
            uncounted_calls=tuple(places["uncounted_calls"]),
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_amount(value: object) -> bool:
    # math.isfinite raises on a whole number beyond a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
