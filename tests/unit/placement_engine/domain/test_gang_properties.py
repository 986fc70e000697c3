"""What holds for every gang on every small fleet: whole, within its domains, exact, and the tightest there is."""

import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Accelerator, Job, Member, MemberGroup, Node, PowerDomain
from placement_engine.domain.shapes import jobs_of, least_replicas
from tests.unit.placement_engine.domain.builders import GIB, NOW, a_device, a_job, a_node, an_engine

LEVELS = ("node", "rack", "block", "zone")
"""Tight to loose, in the fleets below."""


@st.composite
def trees(draw: st.DrawFn, models: tuple[str, ...] = ("H100", "L4"), undeclared: bool = True) -> list[Node]:
    """A few nodes in a tree of racks, blocks and zones; some declare nothing."""
    nodes = []
    for number in range(draw(st.integers(1, 9))):
        zone, block, rack = draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.integers(0, 1))
        topology = {"rack": f"r{zone}{block}{rack}", "block": f"b{zone}{block}", "zone": f"z{zone}"}
        if undeclared and draw(st.integers(0, 7)) == 0:
            topology = {}
        name, count = f"n{number}", draw(st.integers(0, 4))
        kind, other = draw(st.sampled_from(models)), draw(st.sampled_from(models))
        numa = draw(st.sampled_from(("", "ab", "aabb", "abab")))
        devices = [
            a_device(name, i, other if i == 3 else kind, topology={"numa": numa[i]} if i < len(numa) else {})
            for i in range(count)
        ]
        nodes.append(
            a_node(
                name,
                devices,
                topology=topology,
                cpu_milli=draw(st.sampled_from((2000, 8000))),
                power_cap_watts=draw(st.sampled_from((None, None, 1300.0))),
            )
        )
    return nodes


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    whole = draw(st.sampled_from((0, 1, 1, 2, 3)))
    return {
        "devices": whole,
        "device_milli": 0 if whole else draw(st.sampled_from((0, 300, 600))),
        "cpu_milli": draw(st.sampled_from((0, 500, 1500))),
        "models": draw(st.sampled_from(((), (), ("H100",)))),
    }


@st.composite
def gangs(draw: st.DrawFn, job_id: str) -> Job:
    level = draw(st.sampled_from(("", *LEVELS, "numa")))
    wishes: dict[str, Any] = {
        "topology_level": level,
        "topology_required": bool(level) and draw(st.booleans()),
        "preferred_level": draw(st.sampled_from(("", "", "rack", "numa"))),
        "group_size": draw(st.sampled_from((0, 0, 2, 3))),
        "group_level": draw(st.sampled_from(("rack", "node", "block"))),
    }
    if draw(st.integers(0, 2)) == 0:
        groups = []
        for name in ("x", "y", "z")[: draw(st.integers(1, 3))]:
            wished = draw(st.integers(1, 3))
            groups.append(MemberGroup(name, wished, draw(st.integers(1, wished)), **draw(shapes())))
        return a_job(job_id, devices=0, groups=tuple(groups), **wishes)
    replicas = draw(st.integers(1, 7))
    least = draw(st.sampled_from((0, 0, 1, 2)))
    return a_job(job_id, replicas=replicas, min_replicas=min(least, replicas), **draw(shapes()), **wishes)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Node], list[Job], list[PowerDomain]]:
    jobs = [draw(gangs(f"j{i}")) for i in range(draw(st.integers(1, 6)))]
    cap = draw(st.sampled_from((None, None, 1000.0, 2100.0)))
    domains = [] if cap is None else [PowerDomain("rack", "r000", cap), PowerDomain("zone", "z0", 2 * cap)]
    return draw(trees()), jobs, domains


def an_engine_of(nodes: list[Node], domains: list[PowerDomain]) -> Engine:
    engine = an_engine(*nodes)
    engine.set_accelerators(
        [
            Accelerator("H100", "GPU", "CUDA", 80 * GIB, tdp_watts=500.0),
            Accelerator("L4", "GPU", "CUDA", 24 * GIB, tdp_watts=70.0),
        ]
    )
    engine.set_power_domains(domains)
    return engine


def domain_of(node: Node, level: str) -> str:
    """A node that declares none is in one of its own."""
    return node.name if level == "node" else node.topology.get(level, f"alone-{node.name}")


def check_whole(job: Job, members: tuple[Member, ...], nodes: dict[str, Node]) -> None:
    assert [m.member for m in members] == list(range(len(members)))
    parts = jobs_of(job)
    names = [group.name for group in job.groups] or [""]
    assert [m.group for m in members] == sorted((m.group for m in members), key=names.index)
    for name, part in zip(names, parts, strict=True):
        own = [m for m in members if m.group == name]
        assert least_replicas(part) <= len(own) <= part.replicas
        assert len({d.model for m in own for d in m.devices}) <= 1, "a group does not mix models"
        for member in own:
            assert len({d.device_id for d in member.devices}) == len(member.devices)
            assert sum(d.milli for d in member.devices) == part.milli_per_member
            assert all(not part.models or d.model in part.models for d in member.devices)
            if "numa" in (job.topology_level,) and job.topology_required and len(member.devices) > 1:
                of_device = {d.device_id: d.topology.get("numa", d.device_id) for d in nodes[member.node].devices}
                assert len({of_device[d.device_id] for d in member.devices}) == 1
        if job.group_size > 1:
            size = job.group_size
            assert len(own) == part.replicas or len(own) % size == 0
            for first in range(0, len(own), size):
                assert len({domain_of(nodes[m.node], job.group_level) for m in own[first : first + size]}) == 1
    if job.topology_required and job.topology_level in LEVELS:
        assert len({domain_of(nodes[m.node], job.topology_level) for m in members}) == 1
        if len(members) > 1 and job.topology_level != "node":
            assert all(job.topology_level in nodes[m.node].topology for m in members)


def check_capacity(engine: Engine, jobs: list[Job], nodes: dict[str, Node], domains: list[PowerDomain]) -> None:
    milli: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    watts: Counter[str] = Counter()
    for job in jobs:
        claim = engine.holds(job.job_id)
        for member in claim.members if claim is not None else ():
            cpu[member.node] += member.cpu_milli
            for device in member.devices:
                milli[device.device_id] += device.milli
                watts[member.node] += {"H100": 500, "L4": 70}[device.model] * device.milli // 1000
    assert all(used <= 1000 for used in milli.values()), milli
    assert all(used <= nodes[name].cpu_milli for name, used in cpu.items())
    for name, drawn in watts.items():
        cap = nodes[name].power_cap_watts
        assert cap is None or drawn <= cap
    for domain in domains:
        drawn = sum(watts[name] for name, node in nodes.items() if node.topology.get(domain.level) == domain.name)
        assert drawn <= domain.cap_watts


@settings(max_examples=250, deadline=None)
@given(world=worlds(), seed=st.integers(0, 2**16))
def test_gangs_are_whole_exact_and_the_same_in_any_order_of_arrival(world: Any, seed: int) -> None:
    nodes, jobs, domains = world
    of_name = {node.name: node for node in nodes}
    engine = an_engine_of(nodes, domains)
    for job in jobs:
        before = engine.state_digest()
        dry = engine.dry_run(job, NOW)
        assert engine.state_digest() == before
        engine.submit(job)
        waiting = engine.state_digest()
        result = engine.cycle(NOW)
        if not result.decisions:
            assert engine.state_digest() == waiting, "nothing of a gang stays claimed"
            rejection = engine.explain(job.job_id, NOW)
            assert rejection is not None
            assert rejection.reasons
            engine.withdraw(job.job_id)
            continue
        (decision,) = result.decisions
        assert decision == dry
        check_whole(job, decision.members, of_name)
        check_capacity(engine, jobs, of_name, domains)
        assert all(0.0 <= t.value <= 1.0 for t in decision.candidates[0].terms)
        engine.undo(job.job_id, 0)
        assert engine.state_digest() == waiting, "undo is exact"
        assert engine.cycle(NOW).decisions == (decision,)
    shuffled = an_engine_of(random.Random(seed).sample(nodes, len(nodes)), domains)
    for job in jobs:
        shuffled.submit(job)
        shuffled.cycle(NOW)
        shuffled.withdraw(job.job_id)
    for job in jobs:
        mine, theirs = engine.holds(job.job_id), shuffled.holds(job.job_id)
        assert (mine and mine.members) == (theirs and theirs.members)


def room(nodes: list[Node], taken: Counter[str], devices: int) -> dict[str, int]:
    """Members of so many devices that each node holds."""
    return {node.name: (len(node.devices) - taken[node.name]) // devices for node in nodes}


def most(rooms: list[tuple[str, int]], wished: int, size: int) -> int:
    """Most members, up to the wished number, that sit in these (group domain, room) with whole groups but the last."""
    cells: Counter[str] = Counter()
    for domain, count in rooms:
        cells[domain] += count
    if size <= 1:
        return min(wished, sum(cells.values()))
    whole, rest = divmod(wished, size)
    for last in cells if rest else [""]:
        if cells[last] >= rest:
            groups = sum((count - (rest if domain == last else 0)) // size for domain, count in cells.items())
            if groups >= whole:
                return wished
    return min(whole, sum(count // size for count in cells.values())) * size


@settings(max_examples=300, deadline=None)
@given(
    nodes=trees(models=("H100",)),
    taken=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    devices=st.integers(1, 3),
    replicas=st.integers(2, 8),
    least=st.integers(1, 8),
    level=st.sampled_from(LEVELS[1:]),
    required=st.booleans(),
    size=st.sampled_from((1, 1, 2, 3)),
    group_level=st.sampled_from(("node", "rack")),
)
def test_the_tightest_domain_against_every_domain(
    nodes: list[Node],
    taken: list[int],
    devices: int,
    replicas: int,
    least: int,
    level: str,
    required: bool,
    size: int,
    group_level: str,
) -> None:
    nodes = [a_node(n.name, n.devices, topology=n.topology) for n in nodes]
    engine = an_engine(*nodes)
    busy: Counter[str] = Counter()
    for node, wanted in zip(nodes, taken, strict=False):
        count = min(wanted, len(node.devices))
        if count:
            busy[node.name] = count
            engine.apply_node(a_node(node.name, node.devices, topology=node.topology, executors=("here",)))
            engine.submit(a_job(f"fill-{node.name}", devices=count, executor="here"))
            assert len(engine.cycle(NOW).decisions) == 1
            engine.apply_node(node)
    job = a_job(
        "gang",
        devices=devices,
        replicas=replicas,
        min_replicas=min(least, replicas),
        topology_level=level,
        topology_required=required,
        group_size=size,
        group_level=group_level,
    )
    rooms = room(nodes, busy, devices)

    def held(at: str) -> dict[str, int]:
        """Members that each domain of a level holds; level "" is everything."""
        found: dict[str, list[tuple[str, int]]] = {}
        for node in nodes:
            if required and level not in node.topology:
                continue
            if at not in ("", "node") and at not in node.topology:
                continue
            found.setdefault(domain_of(node, at) if at else "", []).append(
                (domain_of(node, group_level), rooms[node.name])
            )
        return {domain: most(cells, replicas, size) for domain, cells in found.items()}

    best = max(held(level if required else "").values(), default=0)
    minimum = min(replicas, -(-min(least, replicas) // size) * size)
    engine.submit(job)
    decisions = engine.cycle(NOW).decisions
    if best < minimum:
        assert decisions == ()
        rejection = engine.explain("gang", NOW)
        assert rejection is not None
        assert {r.numbers.get("replicas_that_fit", 0) for r in rejection.reasons if r.plugin == "Gang"} <= {float(best)}
        return
    (decision,) = decisions
    sits = [next(n for n in nodes if n.name == m.node) for m in decision.members]
    assert len(sits) == best, "as many as fit"
    tightest = next(at for at in (*LEVELS, "") if best in held(at).values())
    if tightest:
        assert len({domain_of(node, tightest) for node in sits}) == 1, "in the tightest domain"
    if tightest in ("rack", "block", "zone") and size == 1:
        capacity: Counter[str] = Counter()
        for node in nodes:
            if not required or level in node.topology:
                capacity[domain_of(node, tightest)] += min(rooms[node.name], replicas)
        chosen = domain_of(sits[0], tightest)
        able = [d for d, members in held(tightest).items() if members == best]
        spans = {d: _spans(nodes, rooms, tightest, d, level, best, required) for d in able}
        assert (0 if required else spans[chosen], capacity[chosen]) == min(
            (0 if required else spans[d], capacity[d]) for d in able
        ), "the least fragmenting of equals"


def _spans(
    nodes: list[Node], rooms: dict[str, int], at: str, domain: str, level: str, size: int, required: bool
) -> int:
    """Fewest domains of the preferred level that hold so many members, of those in one domain."""
    cells: Counter[str] = Counter()
    for node in nodes:
        if domain_of(node, at) == domain and (not required or level in node.topology):
            cells[domain_of(node, level)] += min(rooms[node.name], size)
    left, spanned = size, 0
    for count in sorted(cells.values(), reverse=True):
        if left <= 0:
            break
        left, spanned = left - count, spanned + 1
    return spanned
