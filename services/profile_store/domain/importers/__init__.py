"""Readers of benchmark formats: bytes in, unvalidated profiles and what was left out."""

from collections.abc import Callable, Mapping

from berth.errors import FieldError, InvalidInput
from profile_store.domain.importers.document import Imported
from profile_store.domain.importers.gavel import read_gavel
from profile_store.domain.importers.own import read_own
from profile_store.domain.profile import encodable

__all__ = ["FORMATS", "Imported", "read"]

FORMATS: Mapping[str, Callable[[bytes, str], Imported]] = {"gavel": read_gavel, "yaml": read_own}


def read(format: str, content: bytes, source: str) -> Imported:
    """All profiles of a document, or InvalidInput: never some of them."""
    reader = FORMATS.get(format.strip().casefold())
    if reader is None:
        raise InvalidInput.of("format", format, f"one of {', '.join(FORMATS)}")
    if not content.strip():
        raise InvalidInput.of("content", "", f"is empty: send a file of the format {format}")
    try:
        return reader(content, source.strip() or f"imported from {format}")
    except InvalidInput as error:
        raise InvalidInput(
            [FieldError(encodable(one.field), encodable(one.value), one.remedy) for one in error.errors]
        ) from error
