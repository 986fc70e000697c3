"""`python -m berth.models.reading NAME SOURCE BATCH`: what the file on standard input is, as JSON.

Its standard error holds MLIR's remarks, and is for nobody.
"""

import json
import resource
import sys
from collections.abc import Callable
from typing import Any

from berth.errors import InvalidInput
from berth.models.documents import artefact_document
from berth.models.formats import KINDS, read

__all__ = ["limited", "main"]

MEMORY = 8 * 2**30
"""Address space, bytes, beside what the file takes: Python and jax reserve most of it and use little."""


def limited(work: Callable[[bytes], dict[str, Any]], source: str) -> dict[str, Any]:
    """What `work` makes of standard input, or what is wrong with it. This process has little memory afterwards."""
    content = sys.stdin.buffer.read()
    # A broken length makes MLIR ask for all the memory that there is.
    most = MEMORY + 24 * len(content)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        return work(content)
    except InvalidInput as error:
        return {"errors": [[one.field, one.value, one.remedy] for one in error.errors]}
    # Broken bytes that passed for a program break the walk over it anywhere.
    except Exception as error:
        said = f"{source}: {type(error).__name__}: {error}"[:300]
        return {"errors": [["file", said, f"it cannot be read: give {KINDS}"]]}


def main() -> None:
    name, source, batch = sys.argv[1:4]

    def work(content: bytes) -> dict[str, Any]:
        return artefact_document(read(content, name, source, int(batch) if batch else None))

    sys.stdout.write(json.dumps(limited(work, source)))


if __name__ == "__main__":
    main()
