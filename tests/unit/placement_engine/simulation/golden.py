"""Golden files. `BERTH_REFRESH_GOLDEN=1 pytest tests/unit/placement_engine/simulation` writes them anew."""

from pathlib import Path

from tests.unit.berth.cli import golden

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, text: str) -> None:
    golden.assert_golden(name, text, FOLDER)
