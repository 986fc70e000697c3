"""Ends every running attempt of the process executor by process id: `python -m binder.executors.terminate DIR`."""

import sys
from pathlib import Path

from binder.executors.attempt_folder import all_folders, end_all

__all__ = ["terminate_all"]


def terminate_all(state_dir: Path, grace_seconds: float = 2.0) -> int:
    """For a shutdown for good, with no binder running. Gives how many attempts were running.

    Their folders say "released", so a binder that is started again reports that and starts nothing.
    """
    return end_all(list(all_folders(Path(state_dir) / "attempts")), grace_seconds)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m binder.executors.terminate STATE_DIR")
    print(f"ended {terminate_all(Path(sys.argv[1]))} attempts")
