"""The operator's backends: command templates in a YAML file (`BERTH_BACKENDS`), parsed with every error named.

    backends:
      - name: my-runtime                       # a DNS label, unique
        accelerators: [Groq-LPU-v1]            # names of the catalogue, and/or
        stacks: [GroqWare]                     # software stacks of the catalogue
        formats: [onnx]                        # of the artefact: jax-export | stablehlo | onnx | triton
        limits: {bytes: 4Gi}                   # largest artefact; leave out where there is no limit
        endpoint: "http://{node}:{port}"
        serve_mode: process                    # process: the command is the runtime | request: it asks one and returns
        commands:
          check: [...]                         # may this artefact run? optional
          prepare: [...]                       # compile {artefact} into {folder}; optional
          serve: [...]
          health: [...]                        # exit code 0 ready, 3 not there, anything else not (yet)
          release: [...]                       # optional where serve_mode is process
        timeouts: {prepare: 30m, serve: 5m, health: 10s, release: 1m, check: 10s}
        parameters: {batch: "1"}               # a job may set these, and these only
        environment: {RUNTIME_HOME: /opt/runtime}

A command is a list of arguments, never a line for a shell. In an argument, `{name}` stands for a value; `{{` and `}}`
are braces. docs/backends.md lists the values.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from berth import catalogue
from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_duration, parse_quantity
from berth.models.artefact import FORMATS

__all__ = ["COMMANDS", "BackendDeclaration", "fill", "parse_backends", "read_backends"]

COMMANDS = ("check", "prepare", "serve", "health", "release")
DEFAULT_TIMEOUTS = {"check": 10.0, "prepare": 1800.0, "serve": 300.0, "health": 10.0, "release": 60.0}
MODES = ("process", "request")
KEYS = (
    "name", "accelerators", "stacks", "formats", "limits", "endpoint", "serve_mode", "commands", "timeouts",
    "parameters", "environment",
)  # fmt: skip
ALWAYS = frozenset({"accelerator", "digest", "format"})
PLACED = ALWAYS | {"artefact", "folder", "node", "indices", "address"}
SERVED = PLACED | {"name", "port"}
# What is asked of a runtime elsewhere must be asked again where this machine forgot all but the name and the place.
ASKED = frozenset({"accelerator", "node", "indices", "address", "name"})
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PARAMETER = re.compile(r"[a-z][a-z0-9_]*")
LARGEST_FILE = 4 << 20


@dataclass(frozen=True, slots=True)
class BackendDeclaration:
    """One backend of the operator. `accelerators`: catalogue names, beside `stacks`. `timeouts`: seconds, all five.
    `most_bytes` None: no limit. `endpoint` may be empty."""

    name: str
    formats: tuple[str, ...]
    commands: Mapping[str, tuple[str, ...]]
    accelerators: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    most_bytes: int | None = None
    endpoint: str = ""
    serve_mode: str = "process"
    timeouts: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_TIMEOUTS))
    parameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def known_values(command: str, serve_mode: str) -> frozenset[str]:
    """What may stand in braces in that command, or in "endpoint" or "environment"."""
    if command == "check":
        return ALWAYS | {"bytes"}
    if command == "environment":
        return ASKED - {"name"}
    if serve_mode == "request" and command in ("health", "release", "endpoint"):
        return ASKED
    if serve_mode == "request" and command == "serve":
        return SERVED - {"port"}
    return PLACED if command == "prepare" else SERVED


def read_backends(path: Path) -> tuple[BackendDeclaration, ...]:
    """The file's backends. Raises InvalidInput that names every error, also where the file cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InvalidInput.of("BERTH_BACKENDS", path, f"{error.strerror or error}: name a file that is there") from None
    if len(raw) > LARGEST_FILE:
        raise InvalidInput.of("BERTH_BACKENDS", path, f"is larger than {LARGEST_FILE} bytes: is it the right file?")
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        raise InvalidInput.of("BERTH_BACKENDS", where, f"is no YAML: {getattr(error, 'problem', error)}") from None
    return parse_backends(document)


def parse_backends(document: object) -> tuple[BackendDeclaration, ...]:
    """The backends of a decoded file. Raises InvalidInput with every error found."""
    if not isinstance(document, Mapping) or set(document) != {"backends"} or not _is_list(document["backends"]):
        raise InvalidInput.of("backends", _shown(document), "write the one key backends, with a list below it")
    errors: list[FieldError] = []
    found: dict[str, BackendDeclaration] = {}
    for position, entry in enumerate(document["backends"]):
        reader = _Entry(f"backends[{position}]", entry)
        declaration = reader.declaration()
        errors += reader.errors
        if declaration.name and declaration.name in found:
            errors.append(FieldError(f"{reader.where}.name", declaration.name, "stands twice: give each its own"))
        found[declaration.name] = declaration
    if errors:
        raise InvalidInput(errors)
    return tuple(found.values())


def fill(template: str, values: Mapping[str, str], parameters: Mapping[str, str]) -> str:
    """The template with its values. Raises KeyError for a name that is in neither."""
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(parameters[name] if name in parameters else values[name])
    return "".join(parts)


class _Entry:
    """Reads one entry and gathers what is wrong with it."""

    def __init__(self, where: str, entry: object) -> None:
        self.where = where
        self.errors: list[FieldError] = []
        self._entry: Mapping[Any, Any] = entry if isinstance(entry, Mapping) else {}
        if not isinstance(entry, Mapping):
            self._wrong("", entry, "write a mapping with the keys name, formats and commands")
        for key in self._entry:
            if key not in KEYS:
                self._wrong(f".{key}", self._entry[key], f"is no known key; {_nearest(key, KEYS)}")

    def declaration(self) -> BackendDeclaration:
        if not self._entry:
            return BackendDeclaration("", (), {})
        name = self._entry.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self._wrong(".name", name, "write a name of lower-case letters, digits and dashes, at most 63 characters")
            name = ""
        else:
            self.where = f"{self.where} ({name})"
        parameters = self._texts("parameters", PARAMETER, "a word of lower-case letters, digits and underscores")
        for parameter in sorted(set(parameters) & (SERVED | {"bytes"})):
            self._wrong(f".parameters.{parameter}", parameters[parameter], "is a value of Berth: choose another name")
        mode = self._entry.get("serve_mode", "process")
        if mode not in MODES:
            self._wrong(".serve_mode", mode, f"write one of: {', '.join(MODES)}")
        accelerators = tuple(self._accelerator(one) for one in self._words("accelerators", required=False))
        stacks = self._known("stacks", tuple(dict.fromkeys(one.stack for one in catalogue.load())), required=False)
        if not self._entry.get("accelerators") and not self._entry.get("stacks"):
            self._wrong(".accelerators", None, "name accelerators or stacks of the catalogue that it serves")
        environment = self._texts("environment", VARIABLE, "the name of a variable")
        for variable, value in environment.items():
            if variable.startswith("BERTH_"):
                self._wrong(f".environment.{variable}", value, "BERTH_ is Berth's own: choose another name")
            self._template(f".environment.{variable}", value, known_values("environment", "") | set(parameters))
        return BackendDeclaration(
            name=name,
            formats=self._known("formats", FORMATS, required=True),
            commands=self._commands(str(mode), parameters),
            accelerators=accelerators,
            stacks=stacks,
            most_bytes=self._limits(),
            endpoint=self._endpoint(str(mode), parameters),
            serve_mode=str(mode),
            timeouts=self._timeouts(),
            parameters=parameters,
            environment=environment,
        )

    def _wrong(self, field: str, value: object, remedy: str) -> None:
        self.errors.append(FieldError(f"{self.where}{field}", _shown(value), remedy))

    def _words(self, key: str, *, required: bool) -> tuple[str, ...]:
        value = self._entry.get(key)
        if value is None and not required:
            return ()
        if not _is_list(value) or not value or not all(isinstance(one, str) and one for one in value):
            self._wrong(f".{key}", value, "write a list of names")
            return ()
        return tuple(dict.fromkeys(value))

    def _known(self, key: str, known: Sequence[str], *, required: bool) -> tuple[str, ...]:
        words = self._words(key, required=required)
        for word in words:
            if word not in known:
                self._wrong(f".{key}", word, f"is not known; {_nearest(word, known)}")
        return words

    def _accelerator(self, name: str) -> str:
        known = catalogue.by_name(name)
        if known is None:
            near = ", ".join(catalogue.nearest(name))
            self._wrong(
                ".accelerators", name, f"is not in the catalogue; {f'nearest: {near}' if near else 'none near'}"
            )
        return known.name if known is not None else name

    def _limits(self) -> int | None:
        limits = self._entry.get("limits")
        if limits is None:
            return None
        if not isinstance(limits, Mapping) or set(limits) != {"bytes"}:
            self._wrong(".limits", limits, "write {bytes: 4Gi}, or leave it out")
            return None
        try:
            most = parse_quantity(f"{self.where}.limits.bytes", limits["bytes"])
        except InvalidInput as error:
            self.errors += error.errors
            return None
        if not most >= 1:
            self._wrong(".limits.bytes", limits["bytes"], "write at least 1 byte, or leave it out")
        return int(most)

    def _timeouts(self) -> dict[str, float]:
        given = self._entry.get("timeouts")
        timeouts = dict(DEFAULT_TIMEOUTS)
        if given is None:
            return timeouts
        if not isinstance(given, Mapping):
            self._wrong(".timeouts", given, "write {prepare: 30m, serve: 5m, ...}")
            return timeouts
        for name, value in given.items():
            if name not in COMMANDS:
                self._wrong(f".timeouts.{name}", value, f"is no command; {_nearest(name, COMMANDS)}")
                continue
            try:
                timeouts[name] = parse_duration(f"{self.where}.timeouts.{name}", value)
            except InvalidInput as error:
                self.errors += error.errors
                continue
            if not timeouts[name] > 0:
                self._wrong(f".timeouts.{name}", value, "write more than nothing, such as 30s")
        return timeouts

    def _texts(self, key: str, pattern: re.Pattern[str], what: str) -> dict[str, str]:
        value = self._entry.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._wrong(f".{key}", value, "write a mapping of names to texts")
            return {}
        texts = {}
        for name, text in value.items():
            if not isinstance(name, str) or not pattern.fullmatch(name):
                self._wrong(f".{key}", name, f"write {what}")
            elif isinstance(text, bool) or not isinstance(text, str | int | float) or "\0" in str(text):
                self._wrong(f".{key}.{name}", text, "write a text: put it into quotes")
            else:
                texts[name] = str(text)
        return texts

    def _endpoint(self, mode: str, parameters: Mapping[str, str]) -> str:
        endpoint = self._entry.get("endpoint", "")
        if not isinstance(endpoint, str):
            self._wrong(".endpoint", endpoint, "write an address such as http://{node}:{port}")
            return ""
        self._template(".endpoint", endpoint, known_values("endpoint", mode) | set(parameters))
        return endpoint

    def _commands(self, mode: str, parameters: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        given = self._entry.get("commands")
        needed = {"serve", "health"} | ({"release"} if mode == "request" else set())
        if not isinstance(given, Mapping):
            self._wrong(".commands", given, f"write a mapping with {', '.join(sorted(needed))}")
            return {}
        commands = {}
        for name, argv in given.items():
            if name not in COMMANDS:
                self._wrong(f".commands.{name}", argv, f"is no command; {_nearest(name, COMMANDS)}")
            elif not _is_list(argv) or not argv or not all(isinstance(one, str) and "\0" not in one for one in argv):
                self._wrong(f".commands.{name}", argv, "write a list of texts, the program first; there is no shell")
            elif not argv[0] or argv[0].startswith("{"):
                self._wrong(f".commands.{name}", argv[0], "write the program itself first, not a value")
            else:
                for index, argument in enumerate(argv):
                    self._template(f".commands.{name}[{index}]", argument, known_values(name, mode) | set(parameters))
                commands[name] = tuple(argv)
        for name in sorted(needed - set(given)):
            self._wrong(f".commands.{name}", None, f"is needed where serve_mode is {mode}")
        return commands

    def _template(self, field: str, template: str, known: frozenset[str]) -> None:
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            self._wrong(field, template, f"{error}: write {{{{ and }}}} for braces")
            return
        for _, name, specification, conversion in parts:
            if name is None:
                continue
            if specification or conversion or name not in known:
                whole = name + (f"!{conversion}" if conversion else "") + (f":{specification}" if specification else "")
                self._wrong(field, template, f"{{{whole}}} is no value here; {_nearest(name, sorted(known))}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _nearest(word: object, known: Sequence[str]) -> str:
    close = get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? one of: {', '.join(known)}" if close else f"one of: {', '.join(known)}"


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
