"""Inventories from a file and from a command, and what is advertised while there is none."""

import asyncio
import os
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from berth.device_plugin.inventory import Device, Inventory, Resource
from berth.device_plugin.running import Held, next_inventory
from berth.device_plugin.sources import Command, Failure, File
from berth.errors import InvalidInput


def lpus(*ids: str) -> Inventory:
    return Inventory((Resource("groq.com/lpu", tuple(Device(one) for one in ids)),))


def text(*ids: str) -> str:
    return f"resources: [{{name: groq.com/lpu, devices: [{', '.join(ids)}]}}]"


def shell(script: str, **settings: float) -> Command:
    return Command(("sh", "-c", script), ("groq.com/lpu",), **settings)  # type: ignore[arg-type]


async def test_a_file_is_followed_through_every_way_of_replacing_it(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    (folder / "v1").mkdir(parents=True)
    (folder / "v1" / "devices.yaml").write_text(text("a"))
    (folder / "data").symlink_to("v1")
    path = folder / "devices.yaml"
    path.symlink_to("data/devices.yaml")

    async with asyncio.timeout(30), aclosing(File(path, seconds=60).follow()) as readings:

        async def until(expected: object) -> None:
            async for reading in readings:
                if isinstance(reading, Failure) and reading.reason.startswith(f"{path}{expected}"):
                    return
                if reading == expected:
                    return

        await until(lpus("a"))
        # A ConfigMap: a link to a folder is replaced.
        (folder / "v2").mkdir()
        (folder / "v2" / "devices.yaml").write_text(text("a", "b"))
        (folder / "next").symlink_to("v2")
        os.replace(folder / "next", folder / "data")
        await until(lpus("a", "b"))
        # An editor: a file is moved over it.
        (folder / "scratch").write_text(text("c"))
        os.replace(folder / "scratch", path)
        await until(lpus("c"))
        # A shell: it is written.
        path.write_text("resources: [")
        await until(" is refused: line 1")
        path.write_text(text("d"))
        await until(lpus("d"))
        path.unlink()
        await until(": there is no such file")
        path.write_text(text("e"))
        await until(lpus("e"))


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        reading = await File(path).read()
        assert isinstance(reading, Failure)
        assert [(one.field, one.value) for one in reading.errors] == [("--file", str(path))]
    (tmp_path / "latin").write_bytes(b"a: \xe4")
    reading = await File(tmp_path / "latin").read()
    assert isinstance(reading, Failure)
    assert "byte 3" in reading.reason


async def test_a_command_prints_the_inventory() -> None:
    assert await shell("""echo '["a"]'; echo ignored >&2""").read() == lpus("a")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'first line' >&2; echo 'no driver' >&2; exit 3", "ended with exit code 3: no driver"),
        ("kill -9 $$", "was ended by signal 9"),
        ("echo '[{]'", "what sh -c 'echo '\"'\"'[{]'\"'\"'' printed is refused: line 1"),
        ("echo '[3.5]'", "resources[0].devices[0]: '3.5'"),
        ("head -c 5000000 /dev/zero", "more than 4194304 bytes"),
    ],
)
async def test_a_command_that_fails_says_why(script: str, said: str) -> None:
    reading = await shell(script).read()
    assert isinstance(reading, Failure)
    assert said in reading.reason


async def test_a_command_that_is_not_there() -> None:
    reading = await Command(("/nonexistent/lpu-smi", "--json")).read()
    assert reading == Failure("/nonexistent/lpu-smi --json could not be started: No such file or directory")


async def test_a_command_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    noted = tmp_path / "child"
    reading = await shell(f"sleep 600 & echo $! > {noted}; wait", limit=0.5).read()
    assert isinstance(reading, Failure)
    assert reading.reason.endswith("took longer than 0.5 s and was killed")
    until = time.monotonic() + 10
    while runs(int(noted.read_text())):
        assert time.monotonic() < until, "what the command started still runs"
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_command_runs_again_and_again(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    script = (
        f"import pathlib; p = pathlib.Path({str(counter)!r}); p.open('a').write('x'); print(['d%d' % p.stat().st_size])"
    )
    command = Command((sys.executable, "-c", script), ("a.b/c",), 0.01)
    seen = []
    async with asyncio.timeout(30), aclosing(command.follow()) as readings:
        async for reading in readings:
            assert isinstance(reading, Inventory)
            seen.append(reading.resources[0].devices[0].id)
            if len(seen) == 3:
                break
    assert seen == ["d1", "d2", "d3"]


def test_the_words_of_a_command_line() -> None:
    assert Command.words_of("lpu-smi --format 'a b'") == ("lpu-smi", "--format", "a b")
    for line in ("lpu-smi 'a", "  "):
        with pytest.raises(InvalidInput, match="--command"):
            Command.words_of(line)


def test_devices_lose_their_health_after_so_many_failures_in_a_row() -> None:
    good = Inventory((Resource("a.b/c", (Device("x"), Device("y", False, "hot"))),))
    held, shown = next_inventory(Held(), Failure("no driver"), 2)
    assert (held, shown) == (Held(None, 1), None)
    held, shown = next_inventory(held, Failure("no driver"), 2)
    assert (held, shown) == (Held(None, 2), None)
    held, shown = next_inventory(held, good, 2)
    assert (held, shown) == (Held(good, 0), good)
    held, shown = next_inventory(held, Failure("hung"), 2)
    assert (held, shown) == (Held(good, 1), None)
    held, shown = next_inventory(held, Failure("hung"), 2)
    why = "their health is not known: 2 times in a row, hung"
    ill = Inventory((Resource("a.b/c", (Device("x", False, why), Device("y", False, "hot"))),))
    assert (held, shown) == (Held(good, 2), ill)
    held, shown = next_inventory(held, good, 2)
    assert (held, shown) == (Held(good, 0), good)
    # A file: a failure never takes anything.
    for _ in range(5):
        held, shown = next_inventory(held, Failure("broken"), 0)
        assert (held.inventory, shown) == (good, None)
