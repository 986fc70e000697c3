"""Numbers as tools print them: "1,234.5", "1.234,5", "1 234,5", "1'234.5".

Which sign stands before the decimals is found out from all numbers of a document, never from one alone: "1,234" is
twelve hundred or little more than one. Where a document proves both, or neither and it matters, it is refused.
"""

import math
import re
from collections.abc import Iterable

from berth.errors import InvalidInput

__all__ = ["Numbers"]

# Spaces and apostrophes only ever group.
GROUPING = str.maketrans("", "", " \u00a0\u202f\u2009'’")
SHAPE = re.compile(r"([+-]?)(\d[\d.,]*|[.,]\d+)([eE][+-]?\d{1,4})?", re.ASCII)
EITHER = re.compile(r"[1-9]\d{0,2}[.,]\d{3}")
REMEDY = "a number such as 1234.5"


class Numbers:
    """Reads the numbers of one document. `texts` are all of them; cells that are no numbers prove nothing."""

    def __init__(self, texts: Iterable[str], decimal: str = "") -> None:
        if decimal not in ("", ".", ","):
            raise InvalidInput.of("decimal", decimal, "one of . and ,")
        proofs: dict[str, str] = {}
        unsure = ""
        for text in texts:
            sign = _proof(text)
            if sign in (".", ","):
                proofs.setdefault(sign, text.strip())
            elif sign == "?" and "," in text:
                unsure = unsure or text.strip()
        if len(proofs) == 2:
            raise InvalidInput.of(
                "content", f"{proofs['.']} and {proofs[',']}", "numbers of two locales in one file: write them one way"
            )
        if decimal and proofs and decimal not in proofs:
            raise InvalidInput.of("decimal", decimal, f"the file says otherwise: {next(iter(proofs.values()))}")
        self.decimal = decimal or next(iter(proofs), ".")
        self._unsure = unsure if not decimal and not proofs else ""

    def read(self, path: str, text: str) -> float:
        """The number, finite. Raises InvalidInput."""
        if self._unsure and _proof(text) == "?":
            raise InvalidInput.of(path, text, "thousands or decimals? say --decimal . or --decimal ,")
        plain = text.strip().translate(GROUPING)
        match = SHAPE.fullmatch(plain)
        if not match:
            raise InvalidInput.of(path, text, REMEDY)
        group = "," if self.decimal == "." else "."
        whole, found, part = match[2].partition(self.decimal)
        if group in part or self.decimal in part or (found and not part) or not _grouped(whole, group):
            raise InvalidInput.of(path, text, f"{REMEDY}; the file's decimals stand behind {self.decimal!r}")
        value = float(f"{match[1]}{whole.replace(group, '') or '0'}.{part or '0'}{match[3] or ''}")
        if not math.isfinite(value):
            raise InvalidInput.of(path, text, "too large to be true")
        return value


def _grouped(whole: str, group: str) -> bool:
    first, *rest = whole.split(group)
    return not rest or (1 <= len(first) <= 3 and all(len(part) == 3 for part in rest))


def _proof(text: str) -> str:
    """ "." or "," where the text can only be read with that before its decimals, "?" where it can be read both
    ways, "" where it has neither or is no number."""
    plain = text.strip().lstrip("+-").translate(GROUPING)
    if not SHAPE.fullmatch(plain):
        return ""
    digits = plain.lower().partition("e")[0]
    dots, commas = digits.count("."), digits.count(",")
    if dots and commas:
        return max(".,", key=digits.rfind)
    if dots + commas == 0:
        return ""
    sign = "." if dots else ","
    if dots + commas > 1:
        return "," if dots else "."
    if EITHER.fullmatch(digits) and digits == plain:
        return "?"
    return sign
