"""Becomes the command of one served model: `python -I -S launcher.py FOLDER`. Standard library only, Linux.

It writes `started` (pid, start time, boot id) into the folder before it becomes the command, so that whoever comes
later finds the process, however the one who spawned it ended. `started` is made by hard link, which fails where it
exists: of two launchers of one folder only the first becomes the command. The process id stays the same.
"""

import json
import os
import sys

__all__ = ["boot_id", "start_time"]


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`; None where it is gone or a zombie."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def stat_fields(pid: int) -> "list[bytes] | None":
    """/proc/PID/stat after the command's name: state first, then parent, group, session; None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def main(folder: str) -> None:
    with open(os.path.join(folder, "intent.json")) as file:
        intent = json.load(file)
    pid = os.getpid()
    draft = os.path.join(folder, f"started.{pid}")
    with open(draft, "w") as file:
        json.dump({"pid": pid, "start": start_time(pid), "boot": boot_id()}, file)
    try:
        os.link(draft, os.path.join(folder, "started"))
    except FileExistsError:
        return
    finally:
        os.unlink(draft)
    os.chdir(os.path.join(folder, "work"))
    try:
        os.execvpe(intent["argv"][0], intent["argv"], intent["environment"])
    except OSError as error:
        print(f"cannot run {intent['argv'][0]!r}: {error.strerror or error}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1])
