"""Entry of the placement engine: `berth-placement-engine`."""

import sys

from berth.service import run
from placement_engine.bootstrap import build
from placement_engine.settings import EngineSettings

__all__ = ["main"]


def main() -> None:
    sys.exit(run("placement-engine", EngineSettings, build))


if __name__ == "__main__":
    main()
