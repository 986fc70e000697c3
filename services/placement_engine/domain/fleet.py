"""Nodes, devices, claims and telemetry of one pool, kept in step with the columns.

Facts are the truth; each column value is a function of the facts, written only when it differs, so
that a row's version moves only when a score could change.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from placement_engine.domain import columns as col
from placement_engine.domain.columns import Columns, Ints
from placement_engine.domain.facts import (
    FRESH_STARTS,
    DeviceFacts,
    DeviceHold,
    MemberHold,
    NodeFacts,
    RowFacts,
)
from placement_engine.domain.model import (
    Device,
    Member,
    Node,
    NodeSample,
    PowerDomain,
)
from placement_engine.domain.models import CPU_CLASS, Models
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.selection import Selection
from placement_engine.domain.surroundings import SIXTEENTHS, DomainFacts, Surroundings
from placement_engine.domain.telemetry import Draw, heat_score


class Fleet:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.columns = Columns()
        self.models = Models(policy)
        self.nodes: dict[str, NodeFacts] = {}
        self.held: dict[str, dict[tuple[str, int], MemberHold]] = {}
        self.structure = 0
        """Moves when nodes or rows come and go."""
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []
        """Node name by number; numbers are never used twice."""
        self.selection = Selection(self.nodes, self.names)
        self._executor_bits: dict[str, int] = {}
        self._early_samples: dict[str, NodeSample] = {}
        self._around = Surroundings(policy.heat_spread_level)
        self.fresh_cordons: list[tuple[str, str]] = []
        """(node, device) cordoned since somebody last took them."""
        self._rank: Ints | None = None
        self.by_row: dict[int, tuple[NodeFacts, RowFacts]] = {}
        self._unwritten: dict[int, tuple[NodeFacts, dict[int, DeviceFacts]]] | None = None
        """Nodes, by number, whose columns wait to be written with these devices; None: they are written at once."""
        self._late: dict[str, None] | None = None
        """Nodes under power budgets whose headroom moved, to be written; None: they are written at once."""

    # -- nodes -----------------------------------------------------------------------------------

    def apply_node(self, node: Node) -> None:
        old = self.nodes.get(node.name)
        if old is not None and old.node == node:
            return
        if old is not None and _same_but_for_others(old.node, node):
            self._others_changed(old, node)
            return
        if old is not None:
            self._leave(old)
        number = self._numbers.get(node.name)
        if number is None:
            number = self._numbers[node.name] = len(self.names)
            self.names.append(node.name)
        facts = NodeFacts(node=node, rows=[], devices={}, number=number)
        if old is not None:
            facts.sample, facts.draw, facts.fresh_starts = old.sample, old.draw, old.fresh_starts
        groups: dict[int, list[Device]] = {}
        for device in sorted(node.devices, key=lambda d: (d.index, d.device_id)):
            groups.setdefault(self.models.identify(device), []).append(device)
        for model, devices in groups.items() or [(0, [])]:  # in order of the devices, not of arrival
            row = self.columns.take(len(devices))
            members = []
            for slot, device in enumerate(devices):
                device_facts = DeviceFacts(device=device, row=row, slot=slot)
                device_facts.nominal_bytes = self.models.memory(device)
                device_facts.partitions = self.models.partitions(device)
                device_facts.heat = heat_score(None, None, self._policy)
                if old is not None and device.device_id in old.devices:
                    device_facts.inherit(old.devices[device.device_id])
                    if node.schedulable and not old.node.schedulable and _by_an_operator(old.node.cordon_reason):
                        device_facts.watch = None  # an operator's word lifts the cordons of a node's devices
                device_facts.judge(self._policy)
                self.columns.write_device(row, slot, col.TRAITS_ONLY, (float(self.models.traits_of(device)),))
                members.append(device_facts)
                facts.devices[device.device_id] = device_facts
                self.models.count(model, 1 if device.present else 0)
            facts.rows.append(
                RowFacts(row=row, model=model, devices=members, present=sum(1 for d in devices if d.present))
            )
            self.by_row[row] = (facts, facts.rows[-1])
            self.columns.model[row] = model
            self.columns.node[row] = number
            self.columns.executors[row] = self._mask(node.executors)
            self.columns.exempt[row] = node.telemetry_exempt
            self.columns.write_row(row, col.TIER_ONLY, (col.FRESH if node.telemetry_exempt else col.UNHEARD,))
            self.columns.received[row] = np.nan if facts.sample is None else facts.sample.received_at
        facts.accelerators = sum(
            1 for d in node.devices if d.present and d.device_class.casefold() != CPU_CLASS.casefold()
        )
        self.nodes[node.name] = facts
        if old is None or (old.node.labels, old.node.taints) != (node.labels, node.taints):
            self.selection.moved()
        self._around.join(node)
        for hold in self.held.get(node.name, {}).values():
            self._attach(facts, hold)
        self.structure += 1
        self._rank = None
        early = self._early_samples.pop(node.name, None)
        if early is not None:
            self.apply_sample(early)
        self._write_node(facts)

    def _others_changed(self, facts: NodeFacts, node: Node) -> None:
        """Only what work outside Berth has of the node is another: rows and their order stay."""
        facts.node = node
        for device in node.devices:
            facts.devices[device.device_id].device = device
        self._write_after_claim(facts, facts.devices.values())

    def remove_node(self, name: str) -> None:
        """Claims stay in `held`: they are the ledger's truth."""
        facts = self.nodes.pop(name, None)
        if facts is not None:
            self._leave(facts)
            self.structure += 1
            self._rank = None

    def _leave(self, facts: NodeFacts) -> None:
        for row in facts.rows:
            for device in row.devices:
                self.models.count(row.model, -1 if device.device.present else 0)
            self.columns.give_back(row.row)
            del self.by_row[row.row]
        self._write_shared(self._around.leave(facts))

    def _mask(self, executors: Iterable[str]) -> int:
        return sum(1 << self._executor_bits.setdefault(e, len(self._executor_bits)) for e in set(executors))

    def executors_known(self) -> int:
        return len(self._executor_bits)

    def executor_bit(self, executor: str) -> int:
        """0 accepts every node; -1 no node has it."""
        if not executor:
            return 0
        bit = self._executor_bits.get(executor)
        return -1 if bit is None else 1 << bit

    def rank(self) -> Ints:
        """Order of node names by row: the tie-break."""
        if self._rank is None:
            order = np.zeros(len(self.names) + 1, dtype=np.intp)
            for position, name in enumerate(sorted(self.nodes)):
                order[self.nodes[name].number] = position
            self._rank = order[self.columns.node[: self.columns.rows]]
        return self._rank

    # -- telemetry -------------------------------------------------------------------------------

    def apply_sample(self, sample: NodeSample) -> None:
        facts = self.nodes.get(sample.node)
        if facts is None:
            early = self._early_samples.get(sample.node)
            if early is None or early.received_at <= sample.received_at:
                self._early_samples[sample.node] = sample
            return
        if facts.sample is not None and sample.received_at < facts.sample.received_at:
            return
        facts.sample = sample
        policy = self._policy
        if sample.power_watts is not None:
            if facts.fresh_starts:
                facts.fresh_starts, facts.draw = facts.fresh_starts - 1, Draw()
            facts.draw.add(sample.power_watts, policy.power_alpha)
        for hold in self.held.get(sample.node, {}).values():
            if sample.received_at >= hold.since + policy.power_settle_seconds:
                self._see(facts, hold, sample)
        for device_sample in sample.devices:
            device = facts.devices.get(device_sample.device_id)
            if device is not None and device.hear(device_sample, sample.received_at, policy):
                self.fresh_cordons.append((sample.node, device_sample.device_id))
        for row in facts.rows:
            self.columns.received[row.row] = sample.received_at
        self._write_node(facts)

    def _see(self, facts: NodeFacts, hold: MemberHold, sample: NodeSample) -> None:
        """A claim's draw is in the telemetry by now, as far as the sample tells of power at all."""
        hold.visible = True
        if hold.node_watts and sample.power_watts is not None:
            facts.pending_watts -= hold.node_watts
            hold.node_watts = 0
        if hold.watts:
            told = {one.device_id for one in sample.devices if one.power_watts is not None}
            for device_id in [one for one in hold.watts if one in told]:
                watts, device = hold.watts.pop(device_id), facts.devices.get(device_id)
                if device is not None:
                    device.pending_watts -= watts

    def age(self, now: float) -> None:
        """Moves nodes whose telemetry grew older, or was heard again, to their tier."""
        c, policy, n = self.columns, self._policy, self.columns.rows
        age = now - c.received[:n]
        tier = (age > policy.fresh_seconds).astype(np.float64)
        tier += age > policy.degraded_seconds
        tier += age > policy.unschedulable_seconds
        tier[np.isnan(c.received[:n])] = col.UNHEARD
        tier[c.exempt[:n]] = col.FRESH
        for row in np.flatnonzero((tier != c.row[col.TIER, :n]) & (c.node[:n] >= 0)):
            c.write_row(int(row), col.TIER_ONLY, (float(tier[row]),))
            c.touch(int(row))

    # -- claims ----------------------------------------------------------------------------------

    def hold(self, job_id: str, member: Member, since: float, peak_watts: float, fraction: float) -> None:
        """Claims a member's devices and host resources. `peak_watts` is its expected draw per device."""
        hold = MemberHold(job_id=job_id, member=member, since=since)
        facts = self.nodes.get(member.node)
        for claim in member.devices if peak_watts > 0 else ():
            device = facts.devices.get(claim.device_id) if facts else None
            idle = device.idle_watts * fraction if device is not None else 0.0
            hold.watts[claim.device_id] = math.ceil(max(0.0, peak_watts - idle))
        hold.node_watts = sum(hold.watts.values())
        self.put_back(hold)

    def let_go(self, job_id: str, member: Member, *, ended: bool = False) -> None:
        """Frees a claim. `ended`: its work has stopped, so averages of draw start anew where nothing else runs."""
        hold = self.lift(job_id, member)
        facts = self.nodes.get(member.node)
        if hold is None or facts is None or not ended:
            return
        if facts.sample is None or facts.sample.received_at <= hold.since:
            return  # nobody has heard its work
        for claim in member.devices:
            device = facts.devices.get(claim.device_id)
            if device is not None and not device.holds:
                device.fresh_starts = FRESH_STARTS
        if member.node not in self.held:
            facts.fresh_starts = FRESH_STARTS

    def lift(self, job_id: str, member: Member) -> MemberHold | None:
        """Takes a claim off its node for a while; `put_back` undoes it exactly."""
        on_node = self.held.get(member.node, {})
        hold = on_node.pop((job_id, member.member), None)
        if not on_node:
            self.held.pop(member.node, None)
        facts = self.nodes.get(member.node)
        if hold is None or facts is None:
            return hold
        touched = []
        for claim in member.devices:
            device = facts.devices.get(claim.device_id)
            if device is not None:
                device.holds.pop((job_id, member.member), None)
                touched.append(device)
        facts.used_cpu -= member.cpu_milli
        facts.used_memory -= member.memory_bytes
        facts.used_pods -= member.pods
        self._shift_pending(facts, hold, -1)
        self._write_after_claim(facts, touched)
        return hold

    def put_back(self, hold: MemberHold) -> None:
        """Undoes `lift`, or `suppose_ended`, to the last bit."""
        member = hold.member
        self.held.setdefault(member.node, {})[hold.job_id, member.member] = hold
        facts = self.nodes.get(member.node)
        if facts is not None:
            if facts.supposed_idle:
                self._suppose_idle(facts, member, False)
            self._write_after_claim(facts, self._attach(facts, hold))

    def suppose_ended(self, job_id: str, member: Member) -> MemberHold | None:
        """`lift` as it will look once the work has left telemetry: where it was a device's last, the
        device draws no more than an idle one, and what was used beyond the claims is free."""
        facts = self.nodes.get(member.node)
        if facts is not None:
            self._suppose_idle(facts, member, True)
        return self.lift(job_id, member)

    def _suppose_idle(self, facts: NodeFacts, member: Member, idle: bool) -> None:
        for claim in member.devices:
            device = facts.devices.get(claim.device_id)
            if device is None or device.supposed_idle == idle or (idle and len(device.holds) > 1):
                continue
            device.supposed_idle = idle
            facts.supposed_idle += 1 if idle else -1

    def _attach(self, facts: NodeFacts, hold: MemberHold) -> list[DeviceFacts]:
        member, touched = hold.member, []
        for claim in member.devices:
            device = facts.devices.get(claim.device_id)
            if device is not None:
                device.holds[hold.job_id, member.member] = DeviceHold(
                    hold.job_id, member.member, claim.milli, claim.memory_bytes, claim.partition, claim.partition_start
                )
                touched.append(device)
        facts.used_cpu += member.cpu_milli
        facts.used_memory += member.memory_bytes
        facts.used_pods += member.pods
        self._shift_pending(facts, hold, 1)
        return touched

    def _shift_pending(self, facts: NodeFacts, hold: MemberHold, sign: int) -> None:
        for device_id, watts in hold.watts.items():
            device = facts.devices.get(device_id)
            if device is not None:
                device.pending_watts += sign * watts
        facts.pending_watts += sign * hold.node_watts

    def hold_all(
        self, job_id: str, members: Sequence[Member], since: float, peak_watts: float, fraction: float
    ) -> None:
        """`hold` for members that share no device; the columns of their nodes are written once."""
        with self.written_once():
            for member in members:
                self.hold(job_id, member, since, peak_watts, fraction)

    def let_go_all(self, job_id: str, members: Sequence[Member], *, ended: bool = False) -> None:
        """`let_go` for several members; the columns of their nodes are written once."""
        if len(members) == 1:
            self.let_go(job_id, members[0], ended=ended)
            return
        with self.power_domains_later(), self.written_once():
            for member in members:
                self.let_go(job_id, member, ended=ended)

    @contextmanager
    def written_once(self) -> Iterator[None]:
        """Claims made or freed inside this are in the facts at once, in the columns at its end."""
        self._unwritten = {}
        try:
            yield
        finally:
            unwritten, self._unwritten = self._unwritten, None
            for facts, devices in unwritten.values():
                self._write_after_claim(facts, devices.values())

    @contextmanager
    def power_domains_later(self) -> Iterator[None]:
        """Rows of a power domain are many: they are written at the end of this. Until then `budget_above`
        tells what is left."""
        if self._late is not None:
            yield
            return
        self._late = {}
        try:
            yield
        finally:
            late, self._late = self._late, None
            self._write_shared(late)

    # -- power domains ---------------------------------------------------------------------------

    def set_power_domains(self, domains: Iterable[PowerDomain]) -> None:
        for facts in self.nodes.values():
            facts.total_watts = 0
        self._around.set_domains(domains, (facts.node for facts in self.nodes.values()))
        for facts in self.nodes.values():
            self._write_node(facts)

    def budget_above(self, facts: NodeFacts) -> float:
        """W left for a node, of its own budget and of those above it; inf where there is none."""
        return self._around.budget(facts)[0]

    def nodes_short_of(self, facts: NodeFacts, watts: float) -> set[str]:
        """Nodes under those power domains above this one that have less than so many W left."""
        above = [domain for key in facts.node.topology.items() if (domain := self._around.domains.get(key)) is not None]
        return set().union(*(domain.nodes for domain in above if domain.headroom < watts))

    def power_domains(self) -> Mapping[tuple[str, str], DomainFacts]:
        return self._around.domains

    # -- columns ---------------------------------------------------------------------------------

    def _write_node(self, facts: NodeFacts) -> None:
        """After telemetry, or the node itself, changed."""
        sigma, warmth = self._policy.power_sigma, 0.0
        if facts.draw.mean is not None:
            facts.seen_watts = facts.draw.upper(sigma) or 0.0
        else:  # what the node does not tell, its devices may
            facts.seen_watts = sum(device.draw.upper(sigma) or 0.0 for device in facts.devices.values())
        for row in facts.rows:
            heat = sum([d.heat for d in row.devices])
            row.own_heat = round(heat / len(row.devices) * SIXTEENTHS) / SIXTEENTHS if row.devices else 0.5
            warmth += heat
        cooler = self._around.warm(facts.node, round(warmth * SIXTEENTHS), len(facts.devices))
        self._write_after_claim(facts, facts.devices.values())
        self._write_shared(cooler)

    def _write_after_claim(self, facts: NodeFacts, devices: Iterable[DeviceFacts]) -> None:
        if self._unwritten is not None:
            self._unwritten.setdefault(facts.number, (facts, {}))[1].update((id(one), one) for one in devices)
            return
        for device in devices:
            self._write_device(device, facts)
        self._write_power(facts)
        self._write_rows(facts)

    def _write_device(self, device: DeviceFacts, facts: NodeFacts) -> None:
        c, total = self.columns, device.total_bytes
        foreign = 0 if device.supposed_idle else device.foreign_bytes
        memory = 0 if total is None else total - device.claimed_bytes() - foreign
        blocked = device.blocked if self._is_heard(device, facts) else device.blocked | col.SILENT
        if device.device.held_by:
            blocked |= col.HELD
        free, slices = device.division()
        limit = self.device_limit(device)
        device.idle_watts = self._idle_watts(device, limit)
        values = (
            float(free) if device.device.present else col.ABSENT,
            float(memory),
            float(blocked),
            self._headroom(device, limit),
            float(total or 0),
            float(slices),
        )
        if values != device.written:
            device.written = values
            c.write_device(device.row, device.slot, col.JUDGED, values)
            c.touch(device.row)
        if not device.cool:
            margin, forecast = device.margin, device.trend.forecast(self._policy)
            told = (math.nan if margin is None else margin, math.nan if forecast is None else forecast)
            c.write_device(device.row, device.slot, col.HEATS, told)

    def _is_heard(self, device: DeviceFacts, facts: NodeFacts) -> bool:
        """A device that its node stopped speaking of ages by the node's later samples."""
        if facts.node.telemetry_exempt or facts.sample is None:
            return True
        if device.heard_at is None:
            return self._policy.unknown_telemetry is not UnknownPolicy.REFUSE
        return facts.sample.received_at - device.heard_at <= self._policy.unschedulable_seconds

    def device_limit(self, device: DeviceFacts) -> float | None:
        if device.sample is not None and device.sample.power_limit_watts is not None:
            return device.sample.power_limit_watts
        return device.device.power_limit_watts

    def _idle_watts(self, device: DeviceFacts, limit: float | None) -> float:
        """Draw of an unclaimed device that does nothing; 0 where it works for others or is unknown."""
        draw = device.draw.mean
        if device.holds or draw is None:
            return 0.0
        if limit is None:
            limit = self.models.tdp(device.device)
        if limit is None:
            return 0.0
        most = self._policy.idle_power_fraction * limit
        return draw if draw <= most else most if device.supposed_idle else 0.0

    def _surplus_watts(self, device: DeviceFacts) -> float:
        """What telemetry still shows of work that a supposition took out."""
        draw, limit = device.draw.mean, self.device_limit(device) or self.models.tdp(device.device)
        if not device.supposed_idle or draw is None or limit is None:
            return 0.0
        return max(0.0, draw - self._policy.idle_power_fraction * limit)

    def _headroom(self, device: DeviceFacts, limit: float | None) -> float:
        """W under the device's own limit; an idle device's draw is part of the next job's peak."""
        if limit is None:
            return math.inf
        draw = 0.0
        if device.idle_watts <= 0:
            draw = device.draw.upper(self._policy.power_sigma) or 0.0
            if device.supposed_idle:
                draw = (device.draw.mean or 0.0) - self._surplus_watts(device)
        return float(math.floor(limit - draw - device.pending_watts))

    def _write_power(self, facts: NodeFacts) -> None:
        seen, pending = facts.seen_watts, facts.pending_watts
        if facts.draw.mean is None:
            pending = sum([device.pending_watts for device in facts.devices.values()])
        if facts.supposed_idle:
            # The step up to the draw of what is taken out is most of the spread: it goes with it, by devices.
            mean = facts.draw.mean
            if mean is None:
                mean = sum(device.draw.mean or 0.0 for device in facts.devices.values())
            spread = (seen - mean) * (1 - facts.supposed_idle / len(facts.devices))
            seen = mean + spread - sum(self._surplus_watts(device) for device in facts.devices.values())
        total = math.ceil(seen) + pending
        cap = facts.node.power_cap_watts
        facts.headroom = math.inf if cap is None else cap - total
        change, facts.total_watts = total - facts.total_watts, total
        if change and self._around.domains:
            touched = self._around.draw(facts.node, change)
            if self._late is None:
                self._write_shared(touched)
            else:
                self._late.update(dict.fromkeys(touched))

    def _write_rows(self, facts: NodeFacts) -> None:
        node, c = facts.node, self.columns
        pods = math.inf if node.pod_limit is None else float(node.pod_limit - facts.used_pods - node.pods_elsewhere)
        for position, row in enumerate(facts.rows):
            idle = [d.idle_watts for d in row.devices if not d.holds]
            values = (
                float(node.schedulable),
                float(node.cpu_milli - facts.used_cpu - node.cpu_milli_elsewhere),
                float(node.memory_bytes - facts.used_memory - node.memory_bytes_elsewhere),
                float(position == 0),
                float(row.present),
                float(facts.accelerators),
                float(math.floor(min(idle))) if idle else 0.0,
                float(node.cpu_milli),
                pods,
            )
            if values != row.written:
                row.written = values
                c.write_row(row.row, col.OWN, values)
                c.touch(row.row)
        self._write_shared_of(facts)

    def _write_shared(self, names: Iterable[str]) -> None:
        for name in names:
            facts = self.nodes.get(name)
            if facts is not None:
                self._write_shared_of(facts)

    def _write_shared_of(self, facts: NodeFacts) -> None:
        """What a node shares with others: budgets above it, and the room that its rack has."""
        headroom, part = self._around.budget(facts)
        room = self._around.room(facts.node)
        for row in facts.rows:
            heat = row.own_heat if room is None else (15 * row.own_heat + room) / 16
            values = (float(headroom), part, heat)
            if values != row.shared:
                row.shared = values
                self.columns.write_row(row.row, col.SHARED, values)
                self.columns.touch(row.row)

    def rewrite(self) -> None:
        """After the catalogue changed: nominal memory and TDP may be other ones."""
        for facts in self.nodes.values():
            for device in facts.devices.values():
                device.nominal_bytes = self.models.memory(device.device)
                device.partitions = self.models.partitions(device.device)
            self._write_node(facts)


def _same_but_for_others(old: Node, new: Node) -> bool:
    """Whether they differ at most in what work outside Berth has. Told often: pods come and go."""
    if len(old.devices) != len(new.devices):
        return False
    bare = replace(
        new,
        devices=old.devices,
        cpu_milli_elsewhere=old.cpu_milli_elsewhere,
        memory_bytes_elsewhere=old.memory_bytes_elsewhere,
        pods_elsewhere=old.pods_elsewhere,
    )
    return bare == old and all(
        one == other or replace(other, held_by=one.held_by) == one
        for one, other in zip(old.devices, new.devices, strict=True)
    )


def _by_an_operator(cordon_reason: str) -> bool:
    """Whether somebody took the node out of service, rather than a condition of a cluster's node, which comes and goes
    by itself: telemetry-ingest writes "Kubernetes: not ready (...)", and names spec.unschedulable where it is set."""
    return not cordon_reason.startswith("Kubernetes: ") or "spec.unschedulable" in cordon_reason
