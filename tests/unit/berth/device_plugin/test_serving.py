"""The whole plugin over real sockets, with a stand-in for the kubelet."""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from berth.device_plugin import serving
from berth.device_plugin.running import run_device_plugin
from berth.device_plugin.serving import MAX_SOCKET_PATH, Pace, remove_stale, socket_path
from berth.device_plugin.sources import Command, File, Source
from berth.errors import InvalidInput
from berth.kubelet.v1beta1 import device_plugin_pb2 as pb
from tests.unit.berth.device_plugin.kubelet_stand_in import StrictKubeletStandIn

LPU = "groq.com/lpu"
PACE = Pace(look=0.2, follow=0.5, retry=(0.05, 0.2), grace=0.5)


@pytest.fixture
def folder() -> Iterator[Path]:
    # A socket's path is short: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="berth-plugin-") as name:
        yield Path(name)


@pytest.fixture
async def kubelet(folder: Path) -> AsyncIterator[StrictKubeletStandIn]:
    async with StrictKubeletStandIn(folder) as running:
        yield running


@contextlib.asynccontextmanager
async def plugin(source: Source, folder: Path, pace: Pace = PACE) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run_device_plugin(source, folder, pace=pace))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def write(path: Path, *devices: Any, **others: list[Any]) -> File:
    resources = [{"name": LPU, "devices": list(devices)}]
    resources += [{"name": name.replace("__", "/").replace("_", "."), "devices": one} for name, one in others.items()]
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"resources": resources}))
    scratch.replace(path)
    return File(path, seconds=0.5)


def ours(folder: Path) -> list[Path]:
    return sorted(folder.glob("berth-*.sock"))


async def test_from_the_file_to_the_container(kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path) -> None:
    devices = [
        {
            "id": f"lpu-{number}",
            "numa": number // 2,
            "link": "ab"[number % 2],
            "files": [f"/dev/groq{number}"],
            "environment": {"VISIBLE": str(number)},
            "cdi": [f"groq.com/lpu={number}"],
        }
        for number in range(4)
    ]
    async with plugin(write(tmp_path / "devices.json", *devices), folder):
        await kubelet.until(lambda one: one.capacity(LPU) == (4, 4))
        assert kubelet.numa[LPU] == {"lpu-0": [0], "lpu-1": [0], "lpu-2": [1], "lpu-3": [1]}
        assert [name for name, _ in kubelet.registrations] == [LPU]
        options = kubelet.endpoints[LPU].options
        assert (options.pre_start_required, options.preferred_allocation_available) == (False, True)
        chosen, given = await kubelet.allocate(LPU, 2)
        # The stand-in offers them in reverse; of one link group all the same.
        assert chosen == ["lpu-0", "lpu-2"]
        assert given == pb.ContainerAllocateResponse(
            environment={"VISIBLE": "0,2"},
            device_files=[
                pb.DeviceFile(container_path=f"/dev/groq{one}", host_path=f"/dev/groq{one}", permissions="rw")
                for one in (0, 2)
            ],
            cdi_devices=[pb.CdiDevice(name="groq.com/lpu=0"), pb.CdiDevice(name="groq.com/lpu=2")],
        )
        assert (await kubelet.allocate(LPU, 2))[0] == ["lpu-1", "lpu-3"]
        stub = kubelet.endpoints[LPU].stub
        assert await stub.PreStartContainer(pb.PreStartContainerRequest(device_ids=["lpu-0"])) is not None
    assert ours(folder) == []


async def test_each_change_is_pushed_and_nothing_else(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "devices.json"
    async with plugin(write(path, "a", "b"), folder):
        await kubelet.until(lambda one: one.capacity(LPU) == (2, 2))
        write(path, "a", {"id": "b", "health": "unhealthy", "reason": "hot"})
        await kubelet.until(lambda one: one.capacity(LPU) == (2, 1))
        # Of no concern to the kubelet: another reason, and what a container is given.
        write(path, {"id": "a", "files": ["/dev/a"]}, {"id": "b", "health": "unhealthy", "reason": "very hot"})
        await until_given(kubelet, "/dev/a")
        write(path, "a", "b", "c")
        await kubelet.until(lambda one: one.capacity(LPU) == (3, 3))
        assert kubelet.lists[LPU] == [
            {"a": "Healthy", "b": "Healthy"},
            {"a": "Healthy", "b": "Unhealthy"},
            {"a": "Healthy", "b": "Healthy", "c": "Healthy"},
        ]
        assert len(kubelet.registrations) == 1


def allocate(*ids: str) -> pb.AllocateRequest:
    return pb.AllocateRequest(containers=[pb.ContainerAllocateRequest(device_ids=ids)])


async def until_given(kubelet: StrictKubeletStandIn, path: str) -> None:
    async with asyncio.timeout(20):
        while True:
            answer = await kubelet.endpoints[LPU].stub.Allocate(allocate("a"))
            if [one.host_path for one in answer.containers[0].device_files] == [path]:
                return
            await asyncio.sleep(0.02)


async def until_gone(folder: Path) -> None:
    async with asyncio.timeout(20):
        while True:
            if not ours(folder):
                return
            await asyncio.sleep(0.02)


async def test_what_cannot_be_given_is_a_clear_error(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "devices.json", "a", {"id": "b", "health": "unhealthy", "reason": "link down"})
    async with plugin(source, folder):
        await kubelet.until(lambda one: one.capacity(LPU) == (2, 1))
        stub = kubelet.endpoints[LPU].stub
        said = []
        for call in (
            stub.Allocate(allocate("x")),
            stub.Allocate(allocate("a", "b")),
            stub.PreStartContainer(pb.PreStartContainerRequest(device_ids=["b"])),
            stub.GetPreferredAllocation(
                pb.PreferredAllocationRequest(
                    containers=[pb.ContainerPreferredAllocationRequest(available=["a"], required=["b"], size=1)]
                )
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            said.append((caught.value.code().name, caught.value.details()))  # type: ignore[attr-defined]
        assert said == [
            ("FAILED_PRECONDITION", "groq.com/lpu: no device x; 2 listed now: a, b"),
            ("FAILED_PRECONDITION", "groq.com/lpu: b is unhealthy: link down"),
            ("FAILED_PRECONDITION", "groq.com/lpu: b is unhealthy: link down"),
            ("INVALID_ARGUMENT", "groq.com/lpu: required but not among those available: b"),
        ]


async def test_each_resource_has_a_socket_and_comes_and_goes_alone(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "devices.json"
    async with plugin(write(path, "a", cerebras_net__wafer=["w"]), folder):
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1) and one.capacity("cerebras.net/wafer") == (1, 1))
        assert len(ours(folder)) == 2
        write(path, "a", sambanova_ai__rdu=["r", "s"])
        await kubelet.until(
            lambda one: one.capacity("sambanova.ai/rdu") == (2, 2) and "cerebras.net/wafer" not in one.endpoints
        )
        # It was told that there is none before the stream ended.
        assert kubelet.lists["cerebras.net/wafer"] == [{"w": "Healthy"}, {}]
        assert [name for name, _ in kubelet.registrations].count(LPU) == 1
        write(path, "a", cerebras_net__wafer=["w"], sambanova_ai__rdu=["r", "s"])
        await kubelet.until(lambda one: one.capacity("cerebras.net/wafer") == (1, 1))
        assert len(ours(folder)) == 3
    assert ours(folder) == []


async def test_a_broken_file_takes_nothing(kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    async with plugin(write(path, "a", "b"), folder) as task:
        await kubelet.until(lambda one: one.capacity(LPU) == (2, 2))
        path.write_text("resources: [")
        await asyncio.sleep(0.7)
        path.unlink()
        await asyncio.sleep(0.7)
        assert not task.done()
        write(path, "a", "b", "c")
        await kubelet.until(lambda one: one.capacity(LPU) == (3, 3))
        assert kubelet.lists[LPU][:-1] == [{"a": "Healthy", "b": "Healthy"}]


async def test_a_command_that_fails_takes_the_health_and_gives_it_back(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    works = tmp_path / "works"
    works.write_text('["a"]')
    source = Command(("cat", str(works)), (LPU,), seconds=0.05, limit=5, failures=3)
    async with plugin(source, folder):
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))
        works.rename(tmp_path / "away")
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 0))
        with pytest.raises(grpc.RpcError) as caught:
            await kubelet.endpoints[LPU].stub.Allocate(allocate("a"))
        assert "times in a row" in caught.value.details()  # type: ignore[attr-defined]
        assert "No such file" in caught.value.details()  # type: ignore[attr-defined]
        (tmp_path / "away").rename(works)
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))


async def test_a_kubelet_that_comes_later_and_starts_anew(folder: Path, tmp_path: Path) -> None:
    # Nothing is found by a look that is not caused by an event.
    pace = Pace(look=60, follow=60, retry=(0.05, 0.2), grace=0.5)
    async with plugin(write(tmp_path / "devices.json", "a"), folder, pace):
        await asyncio.sleep(0.3)
        assert ours(folder) == []
        kubelet = StrictKubeletStandIn(folder)
        for _ in range(3):
            async with kubelet:
                await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))
            # While there is no kubelet there is nothing to serve.
            await until_gone(folder)
        names = [endpoint for _, endpoint in kubelet.registrations]
        # Each registration has a socket of its own: the kubelet would refuse one that it is still connected to.
        assert len(set(names)) == len(names) == 3
        assert kubelet.refusals == []


async def test_a_socket_that_is_removed_is_served_anew(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    async with plugin(write(tmp_path / "devices.json", "a"), folder, Pace(look=30, follow=60, retry=(0.05, 0.2))):
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))
        [before] = ours(folder)
        before.unlink()
        await kubelet.until(lambda one: len(one.registrations) == 2 and one.capacity(LPU) == (1, 1))
        [after] = ours(folder)
        assert after != before


async def test_a_kubelet_that_refuses_is_asked_again(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    kubelet.refuse = "not now"
    async with plugin(write(tmp_path / "devices.json", "a"), folder):
        await kubelet.until(lambda one: len(one.refusals) >= 3)
        kubelet.refuse = ""
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))


async def test_a_folder_that_cannot_be_written_for_a_while(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(serving, "socket_path", lambda folder, *_: folder / "no" / "such.sock")
        async with plugin(write(tmp_path / "devices.json", "a"), folder) as task:
            await asyncio.sleep(0.3)
            assert not task.done()
            changed.undo()
            await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))


async def test_a_kubelet_that_lost_us_is_asked_again(
    kubelet: StrictKubeletStandIn, folder: Path, tmp_path: Path
) -> None:
    kubelet.deaf = True
    async with plugin(write(tmp_path / "devices.json", "a"), folder):
        await kubelet.until(lambda one: len(one.registrations) >= 2)
        kubelet.deaf = False
        await kubelet.until(lambda one: one.capacity(LPU) == (1, 1))


async def test_a_folder_or_a_first_file_that_is_none_ends_it(folder: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "devices.json", "a")
    with pytest.raises(InvalidInput, match="--kubelet-dir"):
        await run_device_plugin(source, folder / "none")
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(InvalidInput, match=r"--kubelet-dir.*107 characters"):
        await run_device_plugin(source, deep)
    (tmp_path / "devices.json").write_text("devises: []")
    with pytest.raises(InvalidInput, match="devises"):
        await run_device_plugin(source, folder)


def test_a_long_name_has_a_short_socket() -> None:
    folder, name = Path("/var/lib/kubelet/device-plugins"), f"{'x' * 60}.com/lpu"
    assert socket_path(folder, LPU, "12345678").name == "berth-groq.com_lpu-12345678.sock"
    path = socket_path(folder, name, "12345678")
    assert len(str(path)) <= MAX_SOCKET_PATH
    assert path.name != socket_path(folder, f"{'x' * 60}.com/rdu", "12345678").name


def test_only_dead_sockets_of_the_same_resource_are_removed(folder: Path) -> None:
    def bound(name: str, *, alive: bool) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(folder / name))
        if alive:
            made.listen()
        else:
            made.close()
        return made

    names = {
        "berth-groq.com_lpu-00000001.sock": False,
        "berth-groq.com_lpu-00000002.sock": True,
        "berth-groq.com_lpu-x-00000003.sock": False,
        "nvidia.sock": False,
        "kubelet.sock": False,
    }
    open_sockets = [bound(name, alive=alive) for name, alive in names.items()]
    (folder / "berth-groq.com_lpu-00000004.sock").write_text("a file")
    remove_stale(folder, LPU)
    assert {path.name for path in folder.iterdir()} == {
        *list(names)[1:],
        "berth-groq.com_lpu-00000004.sock",
    }
    for one in open_sockets:
        one.close()
