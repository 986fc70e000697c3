"""A fast reader of the Prometheus text format that looks only at the names it is asked for.

A full parser decodes every line; a page of an exporter holds hundreds that nobody needs. Lines of one device
share one label text, so labels are decoded once a device. What is read is read strictly: a broken line with a
wanted name is an error, never a guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from berth.errors import InvalidInput

__all__ = ["Exposition", "Sample", "parse", "refuse_foreign"]

Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""Canonical name, labels, value (may be NaN or infinite)."""

_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"[ \t]*(,|$)')
_LABEL_BLOCK = re.compile(r'\{((?:[^"{}]|"(?:[^"\\\n]|\\.)*")*)\}')
_ESCAPE = re.compile(r'\\([\\"n])')
_NO_LABELS: Labels = {}
LONGEST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Exposition:
    """`samples` in the page's order; `source_time` the newest timestamp, seconds since the epoch."""

    samples: tuple[Sample, ...]
    source_time: float | None


def refuse_foreign(text: str, content_type: str = "") -> None:
    """Raises InvalidInput where the page is plainly not the Prometheus text format."""
    head = text[:512].lstrip("\ufeff \t\r\n")
    kind = content_type.partition(";")[0].strip().lower()
    remedy = "the target must answer in the Prometheus text format; check the port and the path of its url"
    if kind in {"text/html", "application/json"} or head[:1] == "<":
        raise InvalidInput.of("content-type", kind or "HTML", f"the page starts with {head[:40]!r}: {remedy}")
    if not head:
        raise InvalidInput.of("page", "", f"the page is empty: {remedy}")
    if "\x00" in head:
        raise InvalidInput.of("page", repr(head[:40]), f"the page is binary: {remedy}")


def parse(text: str, wanted: Mapping[str, str]) -> Exposition:
    """The samples whose name is a key of `wanted`, under the name it maps to.

    Raises InvalidInput naming the line where a wanted line is broken.
    """
    samples: list[Sample] = []
    known: dict[str, Labels] = {}
    newest: float | None = None
    for number, line in enumerate(text.split("\n"), 1):
        brace = line.find("{")
        if brace > 0:
            name = wanted.get(line[:brace])
            if name is None:
                if line[0] != "#" and (line[0] in " \t" or line[brace - 1] in " \t"):
                    name = wanted.get(line[:brace].strip())
                if name is None:
                    continue
            end = line.rfind("}")
            body = line[brace + 1 : end] if end > brace else ""
            labels = known.get(body)
            if labels is None or end < brace:
                found = _decode(body) if end > brace else None
                if found is None:
                    # An exemplar has braces of its own; look for the block that closes first.
                    block = _LABEL_BLOCK.match(line, brace)
                    found = _decode(block.group(1)) if block else None
                    if block is None or found is None:
                        raise _broken(number, line, 'its labels do not close or are not name="value"')
                    end = block.end() - 1
                    labels = found
                else:
                    labels = known[body] = found
            text_of_value = line[end + 1 :]
        else:
            if not line or line[0] == "#":
                continue
            first, _, text_of_value = line.strip().partition(" ")
            if "\t" in first:
                first, _, text_of_value = line.strip().partition("\t")
            name = wanted.get(first)
            if name is None:
                continue
            labels = _NO_LABELS
        try:
            # Most lines end with the value alone; float() takes the blanks around it.
            value = float(text_of_value)
            if "_" in text_of_value:
                raise ValueError
        except ValueError:
            value, stamp = _value_and_time(number, line, text_of_value)
            if stamp is not None and (newest is None or stamp > newest):
                newest = stamp
        samples.append((name, labels, value))
    return Exposition(tuple(samples), newest)


def _decode(body: str) -> Labels | None:
    """The labels of a block, None where it is broken. Shared: nobody changes them."""
    return _decode_often(body) if len(body) < LONGEST_KEPT else _decode_once(body)


def _decode_once(body: str) -> Labels | None:
    labels: Labels = {}
    position = 0
    while position < len(body):
        match = _LABEL.match(body, position)
        if match is None:
            return labels if not body[position:].strip() else None
        value = match.group(2)
        labels[match.group(1)] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
        position = match.end()
    return labels


# Scrape after scrape a target sends the same label texts.
_decode_often = lru_cache(maxsize=1 << 15)(_decode_once)


def _unescape(match: re.Match[str]) -> str:
    character = match.group(1)
    return "\n" if character == "n" else character


def _value_and_time(number: int, line: str, text: str) -> tuple[float, float | None]:
    rest = text.split()
    if "#" in rest:
        rest = rest[: rest.index("#")]
    if not 1 <= len(rest) <= 2:
        raise _broken(number, line, "one value and at most one timestamp are expected after the labels")
    try:
        value = float(rest[0])
    except ValueError:
        raise _broken(number, line, f"{rest[0]!r} is not a number") from None
    if "_" in rest[0]:
        raise _broken(number, line, f"{rest[0]!r} is not a number")
    try:
        return value, int(rest[1]) / 1000.0 if len(rest) == 2 else None
    except ValueError:
        raise _broken(number, line, f"timestamp {rest[1]!r} is not in whole milliseconds") from None


def _broken(number: int, line: str, why: str) -> InvalidInput:
    return InvalidInput.of(f"line {number}", line[:120], f"{why}: the exporter's page is broken or cut off")
