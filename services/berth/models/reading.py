"""`python -m berth.models.reading NAME SOURCE BATCH`: what the file on standard input is, as JSON.

Its standard error holds MLIR's remarks, and is for nobody.
"""

import json
import resource
import sys

from berth.errors import InvalidInput
from berth.models.documents import artefact_document
from berth.models.formats import KINDS, read

__all__ = ["main"]

MEMORY = 8 * 2**30
"""Address space, bytes, beside what the file takes: Python and jax reserve most of it and use little."""


def main() -> None:
    name, source, batch = sys.argv[1:4]
    content = sys.stdin.buffer.read()
    # A broken length makes MLIR ask for all the memory that there is.
    most = MEMORY + 24 * len(content)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        answer = artefact_document(read(content, name, source, int(batch) if batch else None))
    except InvalidInput as error:
        answer = {"errors": [[one.field, one.value, one.remedy] for one in error.errors]}
    # Broken bytes that passed for a program break the walk over it anywhere.
    except Exception as error:
        said = f"{source}: {type(error).__name__}: {error}"[:300]
        answer = {"errors": [["file", said, f"it cannot be read: give {KINDS}"]]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
