"""Reads an inventory, as a person or a command writes it.

    resources:
      - name: groq.com/lpu                # the resource's name in pods and nodes
        environment: {GROQ_HOME: /opt/groq}   # once for each container; so are mounts, files, annotations, cdi
        mounts: [{host: /opt/groq, container: /opt/groq, read_only: true}]
        devices:
          - id: lpu-0
            health: healthy               # healthy | unhealthy
            reason: ""                    # why it is unhealthy
            numa: 0                       # NUMA node, or a list of them
            link: a                       # group of devices with a fast link
            files: [/dev/groq0]           # or {host: /dev/groq0, container: /dev/groq0, permissions: rw}
            environment: {GROQ_VISIBLE_DEVICES: "0"}    # values of several devices are joined with commas
            annotations: {groq.com/slot: "3"}
            cdi: [groq.com/lpu=0]

Or a list of devices alone, for one resource that `--resource` names.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from berth.device_plugin.inventory import Device, DeviceFile, Grant, Inventory, Mount, Resource
from berth.errors import FieldError, InvalidInput

__all__ = ["parse_inventory", "parse_text", "resource_name_error"]

GRANT_FIELDS = ("files", "mounts", "environment", "annotations", "cdi")
RESOURCE_FIELDS = ("name", "devices", *GRANT_FIELDS)
DEVICE_FIELDS = ("id", "health", "reason", "numa", "link", *GRANT_FIELDS)
FILE_FIELDS = ("host", "container", "permissions")
MOUNT_FIELDS = ("host", "container", "read_only")
ID_CHARACTERS = 63
MAX_NUMA = 1023

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ID = re.compile(r"[!-+\--~]+")
_VARIABLE = re.compile(r"[^=\0]+")
_CDI = re.compile(rf"{_LABEL}(\.{_LABEL})*/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?=[A-Za-z0-9]([-A-Za-z0-9_.:]*)")


def parse_text(text: str, resources: Sequence[str] = ()) -> Inventory:
    """From YAML or JSON. Raises InvalidInput with every error found."""
    try:
        document = json.loads(text) if text.lstrip()[:1] in ("{", "[") else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        # A flow mapping of YAML looks like JSON at first.
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InvalidInput.of(
                f"line {error.lineno}", _line(text, error.lineno), f"not JSON: {error.msg} at column {error.colno}"
            ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else 1
        said = getattr(error, "problem", None) or str(error)
        raise InvalidInput.of(f"line {number}", _line(text, number), f"not YAML: {said}") from error
    except RecursionError as error:
        raise InvalidInput.of("file", text[:40], "it is nested too deeply") from error
    return parse_inventory(document, resources)


def parse_inventory(document: Any, resources: Sequence[str] = ()) -> Inventory:
    """`resources`: only these, or, for a list of devices alone, the one that they are of. Raises InvalidInput with
    every error found."""
    reader = _Reader()
    for name in resources:
        if remedy := resource_name_error(name):
            reader.fail("--resource", name, remedy)
    if isinstance(document, Mapping) and "devices" in document and "resources" not in document:
        document = {"resources": [document if "name" in document else {**document, "name": _only(resources)}]}
    elif isinstance(document, list):
        document = {"resources": [{"name": _only(resources), "devices": document}]}
    found = reader.document(document)
    if resources and not reader.errors:
        listed = [one.name for one in found]
        for name in dict.fromkeys(resources):
            if name not in listed:
                reader.fail("--resource", name, f"not listed; listed: {', '.join(listed) or 'none'}")
        found = [one for one in found if one.name in resources]
    if reader.errors:
        raise InvalidInput(reader.errors)
    return Inventory(tuple(found))


def resource_name_error(name: str) -> str:
    """What to do about a name that the kubelet would refuse; "" where it is fine."""
    domain, slash, rest = name.partition("/")
    if not slash:
        return "write your domain, a slash and a name, such as groq.com/lpu"
    if domain == "kubernetes.io" or domain.endswith(".kubernetes.io") or domain.startswith("requests."):
        return "write a domain of your own: kubernetes.io and requests. are kept for Kubernetes itself"
    if not _DOMAIN.fullmatch(domain) or len(domain) > 244:
        return "before the slash, write a domain in lower case: letters, digits, - and ., at most 244 characters"
    if not _QUALIFIED.fullmatch(rest) or len(rest) > 63:
        return "after the slash, write at most 63 letters, digits, -, _ and ., a letter or digit first and last"
    return ""


def _only(resources: Sequence[str]) -> str:
    if len(resources) != 1:
        raise InvalidInput.of(
            "--resource", ", ".join(resources), "a list of devices alone is of one resource: name it, once"
        )
    return resources[0]


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


class _Reader:
    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def fail(self, field: str, value: Any, remedy: str) -> None:
        self.errors.append(FieldError(field, "" if value is None else str(value), remedy))

    def document(self, document: Any) -> list[Resource]:
        if not isinstance(document, Mapping):
            self.fail("file", _shown(document), "write a mapping with resources, or a list of devices")
            return []
        self.known("", document, ("resources",))
        entries = document.get("resources")
        if not isinstance(entries, list):
            self.fail("resources", _shown(entries), "write a list, such as: resources: [{name: groq.com/lpu, ...}]")
            return []
        found: dict[str, Resource] = {}
        for position, entry in enumerate(entries):
            resource = self.resource(f"resources[{position}]", entry)
            if resource is None:
                continue
            if resource.name in found:
                self.fail(f"resources[{position}].name", resource.name, "each resource once: put its devices together")
            found[resource.name] = resource
        return list(found.values())

    def resource(self, where: str, entry: Any) -> Resource | None:
        if not isinstance(entry, Mapping):
            self.fail(where, _shown(entry), "write a mapping with name and devices")
            return None
        self.known(where, entry, RESOURCE_FIELDS)
        name = entry.get("name")
        if not isinstance(name, str) or (remedy := resource_name_error(name)):
            self.fail(f"{where}.name", name, remedy if isinstance(name, str) else "write a name such as groq.com/lpu")
            name = ""
        listed = entry.get("devices")
        if not isinstance(listed, list):
            self.fail(f"{where}.devices", _shown(listed), "write a list of devices; [] for none")
            listed = []
        devices: dict[str, Device] = {}
        for position, one in enumerate(listed):
            at = f"{where}.devices[{position}]"
            if (device := self.device(at, one)) is None:
                continue
            if device.id and device.id in devices:
                self.fail(f"{at}.id", device.id, "used before in this resource: give each device an id of its own")
            devices[device.id] = device
        grant = self.grant(where, entry)
        self.places(where, name, grant, list(devices.values()))
        return Resource(name, tuple(devices.values()), grant)

    def device(self, where: str, entry: Any) -> Device | None:
        if type(entry) in (str, int):
            entry = {"id": entry}
        if not isinstance(entry, Mapping):
            self.fail(where, _shown(entry), "write a device's id, or a mapping with id")
            return None
        self.known(where, entry, DEVICE_FIELDS)
        given = entry.get("id")
        device_id = str(given) if type(given) in (str, int) else ""
        if not _ID.fullmatch(device_id) or len(device_id) > ID_CHARACTERS:
            self.fail(f"{where}.id", given, f"write 1 to {ID_CHARACTERS} characters without blanks and commas")
            device_id = ""
        health = str(entry.get("health", "healthy")).lower()
        if health not in ("healthy", "unhealthy"):
            self.fail(f"{where}.health", entry.get("health"), "write healthy or unhealthy")
        return Device(
            id=device_id,
            healthy=health == "healthy",
            reason=self.text(f"{where}.reason", entry.get("reason", "")),
            numa=self.numa(f"{where}.numa", entry.get("numa")),
            link=self.text(f"{where}.link", entry.get("link", "")),
            grant=self.grant(where, entry),
        )

    def numa(self, where: str, given: Any) -> tuple[int, ...]:
        if given is None:
            return ()
        nodes = given if isinstance(given, list) else [given]
        if not all(type(node) is int and 0 <= node <= MAX_NUMA for node in nodes):
            self.fail(where, given, f"write a NUMA node, 0 to {MAX_NUMA}, or a list of them; leave it out if unknown")
            return ()
        return tuple(dict.fromkeys(nodes))

    def grant(self, where: str, entry: Mapping[str, Any]) -> Grant:
        return Grant(
            files=tuple(
                self.device_file(f"{where}.files[{position}]", one)
                for position, one in enumerate(self.list(f"{where}.files", entry.get("files")))
            ),
            mounts=tuple(
                self.mount(f"{where}.mounts[{position}]", one)
                for position, one in enumerate(self.list(f"{where}.mounts", entry.get("mounts")))
            ),
            environment=self.strings(f"{where}.environment", entry.get("environment"), _VARIABLE),
            annotations=self.strings(f"{where}.annotations", entry.get("annotations"), _VARIABLE),
            cdi=tuple(
                self.cdi(f"{where}.cdi[{position}]", one)
                for position, one in enumerate(self.list(f"{where}.cdi", entry.get("cdi")))
            ),
        )

    def device_file(self, where: str, entry: Any) -> DeviceFile:
        host, container, entry = self.paths(where, entry, FILE_FIELDS)
        permissions = self.text(f"{where}.permissions", entry.get("permissions", "rw"))
        if not permissions or set(permissions) - set("rwm") or len(set(permissions)) < len(permissions):
            self.fail(f"{where}.permissions", permissions, "write any of r, w and m (mknod), each once, such as rw")
        return DeviceFile(host, container, permissions)

    def mount(self, where: str, entry: Any) -> Mount:
        host, container, entry = self.paths(where, entry, MOUNT_FIELDS)
        read_only = entry.get("read_only", True)
        if not isinstance(read_only, bool):
            self.fail(f"{where}.read_only", read_only, "write true or false")
        return Mount(host, container, bool(read_only))

    def paths(self, where: str, entry: Any, fields: Sequence[str]) -> tuple[str, str, Mapping[str, Any]]:
        if isinstance(entry, str):
            entry = {"host": entry}
        if not isinstance(entry, Mapping):
            self.fail(where, _shown(entry), f"write a path, or a mapping with {', '.join(fields)}")
            return "", "", {}
        self.known(where, entry, fields)
        host = self.text(f"{where}.host", entry.get("host"))
        container = self.text(f"{where}.container", entry.get("container", host))
        for field, path in (("host", host), ("container", container)):
            if field == "container" and field not in entry:
                continue
            if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
                self.fail(f"{where}.{field}", path, "write an absolute path without ..")
        return host, container, entry

    def cdi(self, where: str, given: Any) -> str:
        name = self.text(where, given)
        if not _CDI.fullmatch(name):
            self.fail(where, name, "write a qualified CDI name: vendor.com/class=device, such as groq.com/lpu=0")
        return name

    def places(self, where: str, name: str, grant: Grant, devices: Sequence[Device]) -> None:
        """Any two devices may go to one container: a path in it must mean the same for both."""
        taken: dict[str, tuple[str, DeviceFile | Mount]] = {}
        for owner, one in [(name, grant), *((device.id, device.grant) for device in devices)]:
            things: tuple[DeviceFile | Mount, ...] = (*one.files, *one.mounts)
            for thing in things:
                before, other = taken.setdefault(thing.container, (owner, thing))
                if other != thing:
                    self.fail(
                        where,
                        thing.container,
                        f"{before} and {owner} put different things at this path of a container, and a container can "
                        "get both: give each a path of its own",
                    )

    def list(self, where: str, given: Any) -> list[Any]:
        if given is None:
            return []
        if not isinstance(given, list):
            self.fail(where, _shown(given), "write a list")
            return []
        return given

    def strings(self, where: str, given: Any, allowed: re.Pattern[str]) -> dict[str, str]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.fail(where, _shown(given), "write a mapping of names to values")
            return {}
        made = {}
        for name, value in given.items():
            if not allowed.fullmatch(str(name)):
                self.fail(f"{where}.{name}", value, "write a name that is not empty and without =")
            made[str(name)] = self.text(f"{where}.{name}", value)
        return made

    def text(self, where: str, given: Any) -> str:
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            self.fail(where, _shown(given), 'write text; quote what YAML takes for something else, such as "true"')
            return ""
        return str(given)

    def known(self, where: str, entry: Mapping[Any, Any], fields: Sequence[str]) -> None:
        for key in entry:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                self.fail(f"{where}.{key}".lstrip("."), key, f"{hint}known: {', '.join(fields)}")


def _shown(given: Any) -> str:
    return "" if given is None else f"{type(given).__name__}" if isinstance(given, (Mapping, list)) else str(given)
