"""Errors that a caller can act on: each names the field, the value and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = [
    "BerthError",
    "Conflict",
    "FieldError",
    "InvalidInput",
    "NotFound",
    "PermissionDenied",
    "Unauthenticated",
]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong: `spec.replicas`, `0`, `at least 1 member is needed`."""

    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        shown = self.value if len(self.value) <= 80 else f"{self.value[:77]}..."
        return f"{self.field}: {shown!r}: {self.remedy}"


class BerthError(Exception):
    """Base of the errors that Berth raises on purpose. `code` is stable, the name of a google.rpc.Code: dead letters
    and gRPC statuses carry it."""

    code = "INTERNAL"


class InvalidInput(BerthError):
    """The input breaks its contract; nothing was stored."""

    code = "INVALID_ARGUMENT"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in self.errors))

    @classmethod
    def of(cls, field: str, value: object, remedy: str) -> Self:
        return cls([FieldError(field, str(value), remedy)])


class Conflict(BerthError):
    """The name or key was used before with another payload."""

    code = "ALREADY_EXISTS"


class NotFound(BerthError):
    code = "NOT_FOUND"


class Unauthenticated(BerthError):
    code = "UNAUTHENTICATED"


class PermissionDenied(BerthError):
    code = "PERMISSION_DENIED"
