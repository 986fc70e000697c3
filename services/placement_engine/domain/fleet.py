"""Nodes, devices, claims and telemetry of one pool, kept in step with the columns.

Facts are the truth; each column value is a function of the facts, written only when it differs, so
that a row's version moves only when a score could change.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from placement_engine.domain import columns as col
from placement_engine.domain.columns import Columns, Ints
from placement_engine.domain.facts import (
    DeviceFacts,
    DeviceHold,
    DomainFacts,
    MemberHold,
    NodeFacts,
    RowFacts,
)
from placement_engine.domain.model import (
    WHOLE_DEVICE,
    Device,
    DeviceSample,
    Member,
    Node,
    NodeSample,
    PowerDomain,
)
from placement_engine.domain.models import CPU_CLASS, Models
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.telemetry import (
    blocking_throttle,
    heat_margin,
    heat_score,
    is_well,
    takes_heat,
)

MEMORY_STEP = 16 * 1024 * 1024
"""Use by others is rounded up to this, so that a few pages more or less are no change."""


class Fleet:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.columns = Columns()
        self.models = Models()
        self.nodes: dict[str, NodeFacts] = {}
        self.held: dict[str, dict[tuple[str, int], MemberHold]] = {}
        self.structure = 0
        """Moves when nodes or rows come and go."""
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []
        """Node name by number; numbers are never used twice."""
        self._executor_bits: dict[str, int] = {}
        self._early_samples: dict[str, NodeSample] = {}
        self._domains: dict[tuple[str, str], DomainFacts] = {}
        self._rank: Ints | None = None
        self.by_row: dict[int, tuple[NodeFacts, RowFacts]] = {}
        self._unwritten: dict[int, tuple[NodeFacts, dict[int, DeviceFacts]]] | None = None
        """Nodes, by number, whose columns wait to be written with these devices; None: they are written at once."""
        self._late: dict[int, DomainFacts] | None = None
        """Power domains whose rows wait to be written; None: they are written at once."""

    # -- nodes -----------------------------------------------------------------------------------

    def apply_node(self, node: Node) -> None:
        old = self.nodes.get(node.name)
        if old is not None and old.node == node:
            return
        if old is not None:
            self._leave(old)
        number = self._numbers.get(node.name)
        if number is None:
            number = self._numbers[node.name] = len(self.names)
            self.names.append(node.name)
        facts = NodeFacts(node=node, rows=[], devices={}, number=number)
        if old is not None:
            facts.sample, facts.draw = old.sample, old.draw
        groups: dict[int, list[Device]] = {}
        for device in sorted(node.devices, key=lambda d: (d.index, d.device_id)):
            groups.setdefault(self.models.identify(device), []).append(device)
        for model, devices in groups.items() or [(0, [])]:  # in order of the devices, not of arrival
            row = self.columns.take(len(devices))
            members = []
            for slot, device in enumerate(devices):
                device_facts = DeviceFacts(device=device, row=row, slot=slot)
                device_facts.nominal_bytes = self.models.memory(device)
                device_facts.heat = heat_score(None, None, self._policy)
                if old is not None and device.device_id in old.devices:
                    before = old.devices[device.device_id]
                    device_facts.sample, device_facts.heard_at = before.sample, before.heard_at
                    device_facts.cool, device_facts.margin = before.cool, before.margin
                    device_facts.draw, device_facts.heat = before.draw, before.heat
                    device_facts.foreign_bytes = before.foreign_bytes
                members.append(device_facts)
                facts.devices[device.device_id] = device_facts
                self.models.count(model, 1 if device.present else 0)
            facts.rows.append(RowFacts(row=row, model=model, devices=members))
            self.by_row[row] = (facts, facts.rows[-1])
            self.columns.model[row] = model
            self.columns.node[row] = number
            self.columns.executors[row] = self._mask(node.executors)
            self.columns.exempt[row] = node.telemetry_exempt
            self.columns.row[col.TIER, row] = col.FRESH if node.telemetry_exempt else col.UNHEARD
            self.columns.received[row] = np.nan if facts.sample is None else facts.sample.received_at
        facts.accelerators = sum(
            1 for d in node.devices if d.present and d.device_class.casefold() != CPU_CLASS.casefold()
        )
        self.nodes[node.name] = facts
        for level, name in node.topology.items():
            domain = self._domains.get((level, name))
            if domain is not None:
                domain.nodes.add(node.name)
        for hold in self.held.get(node.name, {}).values():
            self._attach(facts, hold)
        self.structure += 1
        self._rank = None
        early = self._early_samples.pop(node.name, None)
        if early is not None:
            self.apply_sample(early)
        self._write_node(facts)

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
        for level, name in facts.node.topology.items():
            domain = self._domains.get((level, name))
            if domain is not None and facts.node.name in domain.nodes:
                domain.nodes.discard(facts.node.name)
                domain.draw -= facts.total_watts
                self._write_domain(domain)

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
            facts.draw.add(sample.power_watts, policy.power_alpha)
        for hold in self.held.get(sample.node, {}).values():
            if not hold.visible and sample.received_at >= hold.since + policy.power_settle_seconds:
                hold.visible = True
                self._shift_pending(facts, hold, -1)
        for device_sample in sample.devices:
            device = facts.devices.get(device_sample.device_id)
            if device is not None:
                self._hear(device, device_sample, sample.received_at)
        for row in facts.rows:
            self.columns.received[row.row] = sample.received_at
        self._write_node(facts)

    def _hear(self, device: DeviceFacts, sample: DeviceSample, received_at: float) -> None:
        device.sample = sample
        device.heard_at = received_at
        device.margin = heat_margin(sample)
        if device.margin is not None:  # a hot device that lost its sensor stays hot until it is heard cool
            device.cool = takes_heat(device.margin, device.cool, self._policy)
        device.heat = heat_score(device.margin, sample.throttle_bits, self._policy)
        if sample.power_watts is not None:
            device.draw.add(sample.power_watts, self._policy.power_alpha)
        if sample.memory_used_bytes is not None:
            beyond = max(0, sample.memory_used_bytes - device.claimed_bytes())
            device.foreign_bytes = -(-beyond // MEMORY_STEP) * MEMORY_STEP

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
            c.row[col.TIER, row] = tier[row]
            c.touch(int(row))

    # -- claims ----------------------------------------------------------------------------------

    def hold(self, job_id: str, member: Member, since: float, peak_watts: float, fraction: float) -> None:
        """Claims a member's devices and host resources. `peak_watts` is its expected draw per device."""
        hold = MemberHold(job_id=job_id, member=member, since=since)
        facts = self.nodes.get(member.node)
        for claim in member.devices if peak_watts > 0 else ():
            device = facts.devices.get(claim.device_id) if facts else None
            idle = self._idle_watts(device) * fraction if device is not None else 0.0
            hold.watts[claim.device_id] = math.ceil(max(0.0, peak_watts - idle))
        self.held.setdefault(member.node, {})[job_id, member.member] = hold
        if facts is not None:
            touched = self._attach(facts, hold)
            self._write_after_claim(facts, touched)

    def let_go(self, job_id: str, member: Member) -> MemberHold | None:
        """Frees a member's claim, and returns what was held, for `hold_again`."""
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
        if not hold.visible:
            self._shift_pending(facts, hold, -1)
        self._write_after_claim(facts, touched)
        return hold

    def hold_again(self, hold: MemberHold) -> None:
        """Undoes `let_go`, or `suppose_ended`, to the last bit."""
        facts = self.nodes.get(hold.member.node)
        self.held.setdefault(hold.member.node, {})[hold.job_id, hold.member.member] = hold
        if facts is not None:
            self._suppose_idle(facts, hold.member, False)
            self._write_after_claim(facts, self._attach(facts, hold))

    def suppose_ended(self, job_id: str, member: Member) -> MemberHold | None:
        """`let_go` as it will look once the work has left telemetry: where it was a device's last, the
        device draws no more than an idle one, and what was used beyond the claims is free."""
        facts = self.nodes.get(member.node)
        if facts is not None:
            self._suppose_idle(facts, member, True)
        return self.let_go(job_id, member)

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
                    hold.job_id, member.member, claim.milli, claim.memory_bytes
                )
                touched.append(device)
        facts.used_cpu += member.cpu_milli
        facts.used_memory += member.memory_bytes
        if not hold.visible:
            self._shift_pending(facts, hold, 1)
        return touched

    def _shift_pending(self, facts: NodeFacts, hold: MemberHold, sign: int) -> None:
        for device_id, watts in hold.watts.items():
            device = facts.devices.get(device_id)
            if device is not None:
                device.pending_watts += sign * watts
            facts.pending_watts += sign * watts

    def hold_all(
        self, job_id: str, members: Sequence[Member], since: float, peak_watts: float, fraction: float
    ) -> None:
        """`hold` for several members; the columns of their nodes are written once."""
        with self.written_once():
            for member in members:
                self.hold(job_id, member, since, peak_watts, fraction)

    def let_go_all(self, job_id: str, members: Sequence[Member]) -> None:
        """`let_go` for several members; the columns of their nodes are written once."""
        if len(members) == 1:
            self.let_go(job_id, members[0])
            return
        with self.power_domains_later(), self.written_once():
            for member in members:
                self.let_go(job_id, member)

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
            for domain in late.values():
                self._write_domain(domain)

    # -- power domains ---------------------------------------------------------------------------

    def set_power_domains(self, domains: Iterable[PowerDomain]) -> None:
        self._domains = {(d.level, d.name): DomainFacts(cap=d.cap_watts) for d in domains}
        for name in sorted(self.nodes):
            facts = self.nodes[name]
            facts.total_watts = 0
            for key in facts.node.topology.items():
                if key in self._domains:
                    self._domains[key].nodes.add(name)
        for domain in self._domains.values():
            self._write_domain(domain)
        for facts in self.nodes.values():
            self._write_node(facts)

    def budget_above(self, facts: NodeFacts) -> float:
        """W left under the power domains above a node, counted as its rows count it; inf where there is none."""
        domains = [self._domains[key] for key in facts.node.topology.items() if key in self._domains]
        return min((_headroom(domain) for domain in domains), default=math.inf)

    def nodes_short_of(self, facts: NodeFacts, watts: float) -> set[str]:
        """Nodes under those power domains above this one that have less than so many W left."""
        domains = [self._domains[key] for key in facts.node.topology.items() if key in self._domains]
        return set().union(*(domain.nodes for domain in domains if _headroom(domain) < watts))

    def power_domains(self) -> Mapping[tuple[str, str], DomainFacts]:
        return self._domains

    def _write_domain(self, domain: DomainFacts) -> None:
        """Headroom in steps of a thousandth of the cap, rounded down: small changes disturb nobody."""
        headroom = _headroom(domain)
        if headroom != domain.headroom:
            domain.headroom = headroom
            for name in domain.nodes:
                self._write_rows(self.nodes[name])

    # -- columns ---------------------------------------------------------------------------------

    def _write_node(self, facts: NodeFacts) -> None:
        self._write_after_claim(facts, facts.devices.values())

    def _write_after_claim(self, facts: NodeFacts, devices: Iterable[DeviceFacts]) -> None:
        if self._unwritten is not None:
            self._unwritten.setdefault(facts.number, (facts, {}))[1].update((id(one), one) for one in devices)
            return
        for device in devices:
            self._write_device(device, facts)
        self._write_power(facts)
        self._write_rows(facts)

    def _write_device(self, device: DeviceFacts, facts: NodeFacts) -> None:
        c, policy, sample = self.columns, self._policy, device.sample
        total = device.total_bytes
        foreign = 0 if device.supposed_idle else device.foreign_bytes
        memory = 0 if total is None else total - device.claimed_bytes() - foreign
        values = (
            float(WHOLE_DEVICE - device.used_milli) if device.device.present else col.ABSENT,
            float(memory),
            float(self._is_heard(device, facts)),
            float(is_well(sample)),
            float(device.cool and (device.margin is not None or takes_heat(None, True, policy))),
            float(not blocking_throttle(sample)),
            self._device_headroom(device),
        )
        if values != device.written:
            device.written = values
            c.device[:, device.slot, device.row] = values
            c.touch(device.row)

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

    def _idle_watts(self, device: DeviceFacts) -> float:
        """Draw of an unclaimed device that does nothing; 0 where it works for others or is unknown."""
        draw, limit = device.draw.mean, self.device_limit(device) or self.models.tdp(device.device)
        if device.holds or draw is None or limit is None:
            return 0.0
        most = self._policy.idle_power_fraction * limit
        if draw > most:
            return most if device.supposed_idle else 0.0
        return draw

    def _surplus_watts(self, device: DeviceFacts) -> float:
        """What telemetry still shows of work that a supposition took out."""
        draw, limit = device.draw.mean, self.device_limit(device) or self.models.tdp(device.device)
        if not device.supposed_idle or draw is None or limit is None:
            return 0.0
        return max(0.0, draw - self._policy.idle_power_fraction * limit)

    def _device_headroom(self, device: DeviceFacts) -> float:
        limit = self.device_limit(device)
        if limit is None:
            return math.inf
        draw = device.draw.upper(self._policy.power_sigma) or 0.0
        if device.supposed_idle:
            draw = (device.draw.mean or 0.0) - self._surplus_watts(device)
        if self._idle_watts(device) > 0:
            draw = 0.0
        return float(math.floor(limit - draw - device.pending_watts))

    def _write_power(self, facts: NodeFacts) -> None:
        sigma = self._policy.power_sigma
        if facts.draw.mean is not None:
            seen = facts.draw.upper(sigma) or 0.0
        else:
            seen = sum(device.draw.upper(sigma) or 0.0 for device in facts.devices.values())
        if facts.supposed_idle:
            seen -= sum(self._surplus_watts(device) for device in facts.devices.values())
        total = math.ceil(seen) + facts.pending_watts
        cap = facts.node.power_cap_watts
        facts.headroom = math.inf if cap is None else cap - total
        change, facts.total_watts = total - facts.total_watts, total
        if change and self._domains:
            for key in facts.node.topology.items():
                domain = self._domains.get(key)
                if domain is not None:
                    domain.draw += change
                    if self._late is None:
                        self._write_domain(domain)
                    else:
                        self._late[id(domain)] = domain

    def _write_rows(self, facts: NodeFacts) -> None:
        node, c = facts.node, self.columns
        headroom, part = facts.headroom, 1.0
        if node.power_cap_watts:
            part = headroom / node.power_cap_watts
        for key in node.topology.items() if self._domains else ():
            domain = self._domains.get(key)
            if domain is not None:
                headroom = min(headroom, domain.headroom)
                part = min(part, domain.headroom / domain.cap if domain.cap > 0 else 0.0)
        part = round(min(max(part, 0.0), 1.0) * 32) / 32
        for position, row in enumerate(facts.rows):
            heat = [d.heat for d in row.devices]
            idle = [self._idle_watts(d) for d in row.devices if not d.holds]
            values = (
                float(node.schedulable),
                float(node.cpu_milli - facts.used_cpu),
                float(node.memory_bytes - facts.used_memory),
                float(headroom),
                float(position == 0),
                float(sum(1 for d in row.devices if d.device.present)),
                float(facts.accelerators),
                round(sum(heat) / len(heat) * 16) / 16 if heat else 0.5,
                part,
                float(math.floor(sum(idle) / len(idle))) if idle else 0.0,
                float(node.cpu_milli),
            )
            if values != row.written:
                row.written = values
                c.row[_WRITTEN_ROWS, row.row] = values
                c.touch(row.row)

    def rewrite(self) -> None:
        """After the catalogue changed: nominal memory and TDP may be other ones."""
        for facts in self.nodes.values():
            for device in facts.devices.values():
                device.nominal_bytes = self.models.memory(device.device)
            self._write_node(facts)


def _headroom(domain: DomainFacts) -> float:
    step = max(1.0, domain.cap / 1000)
    return math.floor((domain.cap - domain.draw) / step) * step


_WRITTEN_ROWS = [
    col.SCHEDULABLE,
    col.CPU,
    col.HOST_MEMORY,
    col.NODE_WATTS,
    col.PRIMARY,
    col.DEVICES,
    col.ACCELERATORS,
    col.HEAT,
    col.POWER,
    col.IDLE_WATTS,
    col.CPU_TOTAL,
]
