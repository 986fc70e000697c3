"""Golden files. `BERTH_REFRESH_GOLDEN=1 pytest tests/unit/berth/cli` writes them anew."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, text: str, folder: Path = FOLDER) -> None:
    """`text` is what the file `<name>.txt` of the folder holds, to the letter."""
    path = folder / f"{name}.txt"
    if os.environ.get("BERTH_REFRESH_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
