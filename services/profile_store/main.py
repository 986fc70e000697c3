"""`berth-profile-store`: what each workload measured on each kind of chip."""

import sys

from berth.service import run
from profile_store.bootstrap import build
from profile_store.settings import ProfileStoreSettings

__all__ = ["main"]


def main() -> int:
    return run("profile-store", ProfileStoreSettings, build)


if __name__ == "__main__":
    sys.exit(main())
