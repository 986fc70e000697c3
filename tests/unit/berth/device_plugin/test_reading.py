"""An inventory as it is written."""

import json

import pytest

from berth.device_plugin.inventory import Device, DeviceFile, Grant, Inventory, Mount, Refusal, Resource
from berth.device_plugin.reading import parse_text, resource_name_error
from berth.errors import InvalidInput
from tests.conftest import ROOT

FULL = """
resources:
  - name: groq.com/lpu
    environment: {HOME: /opt}
    mounts: [{host: /opt/groq, container: /groq}, /etc/groq]
    devices:
      - id: lpu-0
        numa: 0
        link: a
        files: [/dev/groq0, {host: /dev/g, container: /dev/ctl, permissions: r}]
        environment: {VISIBLE: 0}
        annotations: {groq.com/slot: "3"}
        cdi: [groq.com/lpu=0]
      - {id: lpu-1, health: Unhealthy, reason: link down, numa: [0, 1], environment: {VISIBLE: "1"}}
      - 7
  - {name: cerebras.net/wafer, devices: []}
"""


def test_every_field_arrives() -> None:
    assert parse_text(FULL) == Inventory(
        (
            Resource(
                "groq.com/lpu",
                (
                    Device(
                        "lpu-0",
                        numa=(0,),
                        link="a",
                        grant=Grant(
                            files=(DeviceFile("/dev/groq0", "/dev/groq0", "rw"), DeviceFile("/dev/g", "/dev/ctl", "r")),
                            environment={"VISIBLE": "0"},
                            annotations={"groq.com/slot": "3"},
                            cdi=("groq.com/lpu=0",),
                        ),
                    ),
                    Device("lpu-1", False, "link down", (0, 1), grant=Grant(environment={"VISIBLE": "1"})),
                    Device("7"),
                ),
                Grant(
                    mounts=(Mount("/opt/groq", "/groq", True), Mount("/etc/groq", "/etc/groq", True)),
                    environment={"HOME": "/opt"},
                ),
            ),
            Resource("cerebras.net/wafer"),
        )
    )


def test_a_list_of_devices_is_of_the_resource_that_is_named() -> None:
    expected = Inventory((Resource("groq.com/lpu", (Device("a"), Device("b", False))),))
    for text in ('["a", {"id": "b", "health": "unhealthy"}]', '{"devices": ["a", {"id": "b", "health": "unhealthy"}]}'):
        assert parse_text(text, ["groq.com/lpu"]) == expected
        with pytest.raises(InvalidInput, match="--resource"):
            parse_text(text)
        with pytest.raises(InvalidInput, match="name it, once"):
            parse_text(text, ["groq.com/lpu", "a.b/c"])


def test_only_the_resources_that_are_named_are_taken() -> None:
    text = json.dumps({"resources": [{"name": "a.b/x", "devices": ["1"]}, {"name": "a.b/y", "devices": ["2"]}]})
    assert parse_text(text, ["a.b/y"]) == Inventory((Resource("a.b/y", (Device("2"),)),))
    with pytest.raises(InvalidInput, match=r"a\.b/z.*not listed; listed: a\.b/x, a\.b/y"):
        parse_text(text, ["a.b/z"])


def refused(devices: str) -> list[tuple[str, str]]:
    """Field, from the device on, and value of each error."""
    with pytest.raises(InvalidInput) as caught:
        parse_text(f"resources: [{{name: a.b/c, devices: [{devices}]}}]")
    return [(one.field.removeprefix("resources[0].devices"), one.value) for one in caught.value.errors]


@pytest.mark.parametrize(
    ("device", "errors"),
    [
        ("{id: a b}", [("[0].id", "a b")]),
        ("{id: 'a,b'}", [("[0].id", "a,b")]),
        ("3.5", [("[0]", "3.5")]),
        ("{health: healthy}", [("[0].id", "")]),
        (f"{{id: {'x' * 64}}}", [("[0].id", "x" * 64)]),
        ("{id: a, health: ok}", [("[0].health", "ok")]),
        ("{id: a, numa: -1}", [("[0].numa", "-1")]),
        ("{id: a, numa: [0, x]}", [("[0].numa", "[0, 'x']")]),
        ("{id: a, files: /dev/x}", [("[0].files", "/dev/x")]),
        ("{id: a, files: [dev/x]}", [("[0].files[0].host", "dev/x")]),
        ("{id: a, files: [{host: /dev/x, container: /../x}]}", [("[0].files[0].container", "/../x")]),
        ("{id: a, files: [{host: /dev/x, permissions: rx}]}", [("[0].files[0].permissions", "rx")]),
        ("{id: a, mounts: [{host: /x, read_only: 'no'}]}", [("[0].mounts[0].read_only", "no")]),
        ("{id: a, environment: {X: true}}", [("[0].environment.X", "True")]),
        ("{id: a, environment: {'X=Y': a}}", [("[0].environment.X=Y", "a")]),
        ("{id: a, cdi: [lpu0]}", [("[0].cdi[0]", "lpu0")]),
        ("{id: a, helth: x, numa: y}", [("[0].helth", "helth"), ("[0].numa", "y")]),
        ("a, a", [("[1].id", "a")]),
        (
            "{id: a, files: [{host: /1, container: /x}]}, {id: b, mounts: [{host: /1, container: /x}]}",
            [("resources[0]", "/x")],
        ),
    ],
)
def test_an_error_names_field_value_and_remedy(device: str, errors: list[tuple[str, str]]) -> None:
    assert refused(device) == errors


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("a: [", "line 1"),
        ('{"resources": [}', "line 1"),
        ("resources: 3", "resources"),
        ("3", "file"),
        ("", "file"),
        ("devises: []", "devises"),
        ("resources: [{name: a.b/c}]", "resources[0].devices"),
        ("resources: [{devices: []}]", "resources[0].name"),
        ("resources: [{name: a.b/c, devices: []}, {name: a.b/c, devices: []}]", "resources[1].name"),
        ("[" * 5000, "file"),
    ],
)
def test_a_document_that_is_none_is_refused(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_text(text)
    assert caught.value.errors[0].field == field
    assert caught.value.errors[0].remedy


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("groq.com/lpu", True),
        ("sambanova.ai/SN40L_x2", True),
        ("lpu", False),
        ("kubernetes.io/lpu", False),
        ("x.kubernetes.io/lpu", False),
        ("notkubernetes.io/lpu", True),
        ("requests.groq.com/lpu", False),
        ("Groq.com/lpu", False),
        ("groq.com/lpu/a", False),
        ("groq.com/", False),
        (f"groq.com/{'x' * 64}", False),
        (f"{'.'.join(['x' * 60] * 4)}x/lpu", True),
        (f"{'.'.join(['x' * 60] * 4)}xx/lpu", False),
    ],
)
def test_names_that_the_kubelet_would_refuse(name: str, fine: bool) -> None:
    assert (resource_name_error(name) == "") is fine


def test_the_example_shows_every_field() -> None:
    text = (ROOT / "examples/device-plugin.yaml").read_text(encoding="utf-8")
    found = parse_text(text)
    assert [(one.name, len(one.devices)) for one in found.resources] == [("groq.com/lpu", 4), ("cerebras.net/wafer", 1)]
    for name in ("health", "reason", "numa", "link", "files", "mounts", "environment", "annotations", "cdi"):
        assert f"{name}:" in text


def test_what_two_devices_give_is_put_together() -> None:
    resource = parse_text(FULL.replace("Unhealthy", "healthy")).resources[0]
    assert resource.grant_of(["lpu-1", "lpu-0", "lpu-0"]) == Grant(
        files=(DeviceFile("/dev/groq0", "/dev/groq0", "rw"), DeviceFile("/dev/g", "/dev/ctl", "r")),
        mounts=(Mount("/opt/groq", "/groq", True), Mount("/etc/groq", "/etc/groq", True)),
        environment={"HOME": "/opt", "VISIBLE": "0,1"},
        annotations={"groq.com/slot": "3"},
        cdi=("groq.com/lpu=0",),
    )


def test_a_device_that_is_unknown_or_ill_is_given_to_nobody() -> None:
    resource = parse_text(FULL.replace("      - 7\n", "")).resources[0]
    with pytest.raises(Refusal, match=r"groq.com/lpu: no device lpu-9; 2 listed now: lpu-0, lpu-1"):
        resource.grant_of(["lpu-0", "lpu-9"])
    with pytest.raises(Refusal, match="lpu-1 is unhealthy: link down"):
        resource.grant_of(["lpu-0", "lpu-1"])
