"""How an invariant that does not hold is told."""

__all__ = ["Broken", "require"]


class Broken(AssertionError):
    """An invariant does not hold."""


def require(sound: bool, message: str) -> None:
    if not sound:
        raise Broken(message)
