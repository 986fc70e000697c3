"""Imports of the optional parts, with words for where they are missing."""

import importlib
from typing import Any

from berth.errors import InvalidInput

__all__ = ["need"]


def need(module: str) -> Any:
    """The module. Raises InvalidInput where it cannot be imported: a service starts without jax and onnx."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InvalidInput.of(
            package, str(error), f"reading models needs {package}: pip install 'berth[models]' where this runs"
        ) from error
