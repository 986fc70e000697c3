"""What the readers share: text and numbers out of a document that may hold anything."""

from dataclasses import dataclass

from berth.errors import InvalidInput
from profile_store.domain.profile import Profile

__all__ = ["Imported", "number_at", "text_of"]


@dataclass(frozen=True, slots=True)
class Imported:
    """`skipped` says in sentences what was left out, and why."""

    profiles: tuple[Profile, ...]
    skipped: tuple[str, ...] = ()


def text_of(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput.of(
            "content", repr(content[:20]), f"not UTF-8 at byte {error.start}: send the file as text"
        ) from error


def number_at(path: str, value: object) -> float:
    """A number as it stands; whether it can be true is for `validate`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput.of(path, repr(value), "a number was expected")
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput.of(path, repr(value), "too large to be true") from error
