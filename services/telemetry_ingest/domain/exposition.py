"""A fast reader of the Prometheus text format that looks only at the names it is asked for.

A full parser decodes every line; a page of an exporter holds hundreds that nobody needs. Lines of one device
share one label text, so labels are decoded once a device. What is read is read strictly: a broken line with a
wanted name is an error, never a guess.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from berth.errors import InvalidInput

__all__ = ["Exposition", "PageReader", "Sample", "parse", "refuse_foreign"]

Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""Canonical name, labels, value (may be NaN or infinite)."""

_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\\n]|\\.)*)"[ \t]*(,|$)')
_LABEL_BLOCK = re.compile(r'\{((?:[^"{}]|"(?:[^"\\\n]|\\.)*")*)\}')
_ESCAPE = re.compile(r'\\([\\"n])')
_NO_LABELS: Labels = {}
LONGEST_KEPT = 1024
LONGEST_LAYOUT = 2000


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


class PageReader:
    """`parse` for the pages of one target, which look alike from scrape to scrape.

    It remembers where the wanted lines stood and how each began. A page on which every line begins as before is
    read by its values alone; any other is parsed anew, so what is read never depends on what came before.
    """

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        # For each line: how it begins, and the name and labels where it is wanted.
        self._layout: list[tuple[str, str, Labels | None]] = []

    def read(self, text: str) -> Exposition:
        """Raises InvalidInput as `parse` does."""
        lines = text.split("\n")
        if len(lines) == len(self._layout):
            known = self._read_known(lines)
            if known is not None:
                return known
        page = parse(text, self._wanted)
        self._layout = self._lay_out(lines, page) if len(lines) <= LONGEST_LAYOUT else []
        return page

    def _read_known(self, lines: list[str]) -> Exposition | None:
        samples: list[Sample] = []
        for line, (start, name, labels) in zip(lines, self._layout, strict=True):
            if not line.startswith(start) or (line and not start):
                return None
            if labels is not None:
                value = line[len(start) :]
                try:
                    samples.append((name, labels, float(value)))
                except ValueError:
                    return None
                if "_" in value:
                    return None
        return Exposition(tuple(samples), None)

    def _lay_out(self, lines: list[str], page: Exposition) -> list[tuple[str, str, Labels | None]]:
        layout: list[tuple[str, str, Labels | None]] = []
        samples = iter(page.samples)
        for line in lines:
            brace = line.find("{")
            end = line.rfind("}")
            if not line or line[0] == "#":
                layout.append((line[:1], "", None))
            elif brace <= 0 or end < brace or line[0] in " \t" or line[brace - 1] in " \t":
                return []
            elif line[:brace] not in self._wanted:
                layout.append((sys.intern(line[: brace + 1]), "", None))
            else:
                name, labels, _ = next(samples)
                if _decode(line[brace + 1 : end]) != labels:
                    # The last brace is an exemplar's.
                    return []
                layout.append((line[: end + 1], name, labels))
        return layout


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
