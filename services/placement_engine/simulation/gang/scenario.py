"""A scenario as a person writes it. `docs/scenarios.md` has the whole format.

start: 2026-12-01T08:00:00Z      # default: 1970-01-01; times are counted from it
horizon: 8h                      # cut the run here; default: until nothing is left to happen
default_duration: 1h             # of jobs that have neither `duration` nor `expected_duration`
policy: {heat_floor_celsius: 5}  # fields of the engine's policy; weights as {weights: {heat: 2}}
queues, pools, nodes: ...        # as in `berth apply`; a node with `count: 4` is four, "-1" to "-4" on the name
profiles: [{workload: llm, accelerator: H100-SXM, devices: 1, throughput: 10, power_watts: 650}]
jobs:                            # as in `berth submit`, and:
  - {name: a, at: 10m, duration: 2h, count: 3, every: 5m, ...}
events:
  - {at: 1h, node: n-1, state: down}            # up | down | cordon | uncordon
  - {at: 2h, node: n-1, devices: [0, 1], margin_celsius: 2, error_code: 79}
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from berth import catalogue
from berth.cli.declarations import Declarations, parse_declarations
from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_document, parse_duration
from placement_engine.adapters import translate
from placement_engine.domain.model import DeviceSample, Job, Node, NodeSample, PowerDomain, Profile, Queue
from placement_engine.domain.policy import Policy
from placement_engine.domain.situation import Situation
from placement_engine.policies import parse_policy
from placement_engine.simulation.clock import HOUR, Arrival, Fact

__all__ = ["Scenario", "declared", "read_documents", "read_scenario", "scenario_from"]

FIELDS = (
    "start", "horizon", "default_duration", "policy", "queues", "pools", "nodes", "profiles", "jobs", "events"
)  # fmt: skip
JOB_FIELDS = ("at", "duration", "count", "every")
EVENT_FIELDS = ("at", "node", "state", "devices")
STATES = ("up", "down", "cordon", "uncordon")
MOST_JOBS = 100_000
SAMPLE_FIELDS = tuple(field.name for field in fields(DeviceSample) if field.name != "device_id")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Times are seconds since the epoch; `end` None runs until nothing is left to happen."""

    situation: Situation
    arrivals: tuple[Arrival, ...]
    facts: tuple[Fact, ...]
    default_seconds: float
    end: float | None


def read_documents(path: Path) -> list[Any]:
    """The YAML documents of a file. Raises InvalidInput."""
    try:
        return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput.of("file", path, f"name a YAML file that can be read: {error}") from error


def read_scenario(path: Path) -> Scenario:
    """The scenario of a file. Raises InvalidInput with every error found."""
    documents = read_documents(path)
    if len(documents) != 1 or not isinstance(documents[0], Mapping):
        raise InvalidInput.of("file", path, "write one YAML mapping with nodes and jobs")
    return scenario_from(documents[0])


def scenario_from(document: Mapping[str, Any]) -> Scenario:
    return _Reader(document).scenario()


def declared(
    documents: list[Any], *, pool: str = "default"
) -> tuple[tuple[Node, ...], tuple[Queue, ...], tuple[PowerDomain, ...]]:
    """Nodes, queues and power budgets of `berth apply` documents, as the core knows them. Raises InvalidInput."""
    made: Declarations = parse_declarations(documents)
    return (
        tuple(translate.node_from(node) for node in made.nodes),
        tuple(translate.queue_from(queue) for queue in made.queues),
        tuple(
            PowerDomain(one.level, one.name, one.cap_watts)
            for record in made.pools
            if record.name == pool
            for one in record.power_domains
        ),
    )


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.errors: list[FieldError] = []
        self.start = 0.0
        self.facts: list[Fact] = []

    def scenario(self) -> Scenario:
        document = self.document
        for key in document:
            if key not in FIELDS:
                near = difflib.get_close_matches(str(key), FIELDS, n=1)
                self.fail(
                    str(key), key, (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(FIELDS)}"
                )
        self.start = self.moment()
        nodes, queues, domains = self.attempt(self.declarations, ((), (), ()))
        policy = self.attempt(lambda: parse_policy(document.get("policy") or {}), Policy())
        arrivals = self.jobs()
        by_name = {node.name: node for node in nodes}
        facts = self.events(by_name)
        profiles = tuple(self.profile(position, one) for position, one in enumerate(self.entries("profiles")))
        default = self.duration("default_duration", document.get("default_duration"), HOUR)
        horizon = self.duration("horizon", document.get("horizon"), 0.0)
        if self.errors:
            raise InvalidInput(self.errors)
        situation = Situation(
            now=self.start,
            policy=policy,
            nodes=nodes,
            power_domains=domains,
            queues=queues,
            profiles=tuple(one for one in profiles if one is not None),
            accelerators=tuple(translate.accelerator_from(one) for one in catalogue.load()),
        )
        end = self.start + horizon if horizon else None
        return Scenario(situation, tuple(arrivals), tuple(facts), default, end)

    # -- parts -----------------------------------------------------------------------------------

    def fail(self, field: str, value: Any, remedy: str) -> None:
        self.errors.append(FieldError(field, str(value), remedy))

    def attempt(self, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except InvalidInput as error:
            self.errors.extend(error.errors)
            return otherwise

    def entries(self, kind: str) -> list[Mapping[str, Any]]:
        given = self.document.get(kind) or []
        if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
            self.fail(kind, type(given).__name__, "write a list of mappings")
            return []
        return given

    def moment(self) -> float:
        given = self.document.get("start")
        if given is None:
            return 0.0
        try:
            moment = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
        except ValueError:
            self.fail("start", given, "write an RFC 3339 time such as 2026-12-01T08:00:00Z")
            return 0.0
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def duration(self, field: str, given: Any, otherwise: float) -> float:
        """Seconds; 0 and "0s" are allowed, as a time from the start."""
        if given is None:
            return otherwise
        if given in (0, "0", "0s", "0m", "0h"):
            return 0.0
        return float(self.attempt(lambda: parse_duration(field, given), otherwise))

    def count(self, field: str, entry: Mapping[str, Any]) -> int:
        given = entry.get("count", 1)
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_JOBS:
            self.fail(field, given, f"write a whole number from 1 to {MOST_JOBS}")
            return 1
        return given

    def declarations(self) -> tuple[tuple[Node, ...], tuple[Queue, ...], tuple[PowerDomain, ...]]:
        nodes: list[Any] = []
        for position, entry in enumerate(self.entries("nodes")):
            one = {key: value for key, value in entry.items() if key != "count"}
            count = self.count(f"nodes[{position}].count", entry)
            if "count" in entry:
                nodes += [{**one, "name": f"{one.get('name')}-{number}"} for number in range(1, count + 1)]
            else:
                nodes.append(one)
        return declared([{"nodes": nodes, **{k: self.document[k] for k in ("queues", "pools") if k in self.document}}])

    def jobs(self) -> list[Arrival]:
        arrivals: list[Arrival] = []
        names: set[str] = set()
        for position, entry in enumerate(self.entries("jobs")):
            where = f"jobs[{position}]"
            rest = {key: value for key, value in entry.items() if key not in JOB_FIELDS}
            at = self.duration(f"{where}.at", entry.get("at"), 0.0)
            every = self.duration(f"{where}.every", entry.get("every"), 0.0)
            seconds = self.duration(f"{where}.duration", entry.get("duration"), 0.0) or None
            count = self.count(f"{where}.count", entry)
            for number in range(count):
                name = f"{entry.get('name')}-{number + 1}" if "count" in entry else str(entry.get("name"))
                job = self.job(where, {**rest, "name": name}, self.start + at + number * every)
                if name in names:
                    self.fail(f"{where}.name", name, "another job has this name")
                names.add(name)
                if job is None:
                    break
                arrivals.append(Arrival(job.submitted_at, job, seconds))
        return arrivals

    def job(self, where: str, document: Mapping[str, Any], at: float) -> Job | None:
        try:
            spec = parse_document(document)
        except InvalidInput as error:
            self.errors.extend(replace(one, field=f"{where}.{one.field}") for one in error.errors)
            return None
        # Names are unique in a scenario, so they are the ids: what is printed is what was written.
        return replace(
            translate.job_from_spec(spec, job_id=spec.name, submitted_at=at, attempt=1),
            executor="" if spec.executor == "process" else spec.executor,
        )

    def profile(self, position: int, entry: Mapping[str, Any]) -> Profile | None:
        known = {field.name for field in fields(Profile)} - {"provenance"}
        where = f"profiles[{position}]"
        for key in entry:
            if key not in known:
                self.fail(f"{where}.{key}", key, f"known: {', '.join(sorted(known))}")
                return None
        if not entry.get("workload") or catalogue.resolve(str(entry.get("accelerator", ""))) is None:
            self.fail(where, entry.get("accelerator"), "give a workload, and an accelerator of the catalogue")
            return None
        try:
            numbers = {
                key: int(value) if key in ("devices", "memory_bytes") else float(value)
                for key, value in entry.items()
                if key not in ("workload", "accelerator")
            }
        except (TypeError, ValueError):
            self.fail(where, entry, "write numbers")
            return None
        model = catalogue.resolve(str(entry["accelerator"]))
        assert model is not None
        return Profile(str(entry["workload"]), model.name, **numbers)  # type: ignore[arg-type]

    # -- events ----------------------------------------------------------------------------------

    def events(self, nodes: Mapping[str, Node]) -> list[Fact]:
        facts = []
        now: dict[str, Node] = dict(nodes)
        timed = [
            (self.duration(f"events[{position}].at", entry.get("at"), 0.0), position, entry)
            for position, entry in enumerate(self.entries("events"))
        ]
        for seconds, position, entry in sorted(timed, key=lambda one: one[:2]):
            where, at = f"events[{position}]", self.start + seconds
            node = now.get(str(entry.get("node")))
            if node is None:
                self.fail(f"{where}.node", entry.get("node"), f"name one of: {', '.join(sorted(nodes)[:8])}")
                continue
            for key in entry:
                if key not in (*EVENT_FIELDS, *SAMPLE_FIELDS):
                    self.fail(f"{where}.{key}", key, f"known: {', '.join((*EVENT_FIELDS, *SAMPLE_FIELDS))}")
            told = {key: entry[key] for key in SAMPLE_FIELDS if key in entry}
            state = entry.get("state")
            if state is not None:
                fact = self.state(where, at, node, str(state))
                if fact is not None:
                    facts.append(fact)
                    if isinstance(fact.fact, Node):
                        now[node.name] = fact.fact
            if told or state is None:
                facts.append(Fact(at, self.sample(where, at, node, entry.get("devices"), told)))
        return facts

    def state(self, where: str, at: float, node: Node, state: str) -> Fact | None:
        if state == "down":
            return Fact(at, node.name)
        if state in ("up", "cordon", "uncordon"):
            cordoned = state == "cordon"
            return Fact(at, replace(node, schedulable=not cordoned, cordon_reason="scenario" if cordoned else ""))
        self.fail(f"{where}.state", state, f"write one of: {', '.join(STATES)}")
        return None

    def sample(self, where: str, at: float, node: Node, indices: Any, told: Mapping[str, Any]) -> NodeSample:
        wanted = {device.index for device in node.devices} if indices is None else set(indices)
        if missing := sorted(wanted - {device.index for device in node.devices}):
            self.fail(f"{where}.devices", missing, f"node {node.name} has no device of that index")
        if not told:
            self.fail(where, "nothing", f"say a state, or what devices report: {', '.join(SAMPLE_FIELDS)}")
        return NodeSample(
            node=node.name,
            received_at=at,
            devices=tuple(DeviceSample(d.device_id, **told) for d in node.devices if d.index in wanted),
        )
