"""`berth-binder`."""

import sys

from berth.service import run
from binder.bootstrap import build
from binder.settings import BinderSettings

__all__ = ["main"]


def main() -> None:
    sys.exit(run("binder", BinderSettings, build))


if __name__ == "__main__":
    main()
