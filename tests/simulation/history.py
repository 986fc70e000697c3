"""One random history of a small fleet from one seed: events to the core and to the oracle, a check after each cycle."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import (
    CycleResult,
    DeviceSample,
    Job,
    Node,
    NodeSample,
    PowerDomain,
    Profile,
    Queue,
    Quota,
    Reclaim,
)
from placement_engine.domain.node_constraints import NodeConstraints
from placement_engine.domain.policy import Policy
from placement_engine.domain.views import digest
from tests.simulation.broken import require
from tests.simulation.draws import (
    CATALOGUE,
    GIB,
    MODELS,
    a_device,
    a_job,
    by_others,
    constraints,
    crowded,
    in_turns,
    led,
    plain_job,
)
from tests.simulation.oracle import Oracle
from tests.simulation.progress import (
    grown_past_who_waits,
    must_be_placed_on_an_empty_fleet,
    passed_over_for_lower,
)

__all__ = ["History", "run"]

START = 1_000_000.0
PROFILES = (
    Profile("w", "H100-SXM", 1, 100.0, 0.05, 20 * GIB, 500.0, 650.0),
    Profile("w", "L4", 1, 12.0, 0.4, 20 * GIB, 60.0, 70.0),
)
POLICIES = (
    Policy(),
    Policy(reasons_max_age_seconds=0.0),
    Policy(heat_floor_celsius=8.0, heat_hysteresis_celsius=4.0, unschedulable_seconds=90.0),
)


class History:
    """`steps`: what happened, for a person who looks at a seed that failed."""

    def __init__(self, seed: int, make: Callable[[Policy], Engine] = Engine) -> None:
        self.dice = random.Random(seed)
        self.make = make
        self.policy = self.dice.choice(POLICIES)
        self.resizes = random.Random(f"resizes {seed}") if seed % 5 == 2 or seed % 10 == 9 else None
        if self.resizes is not None:
            self.policy = replace(self.policy, resize_gangs=True, grow_after_seconds=self.resizes.choice((0.0, 40.0)))
        if seed % 5 == 4:
            # The dice of the others stay as they are. Every second of these has both.
            self.policy = replace(self.policy, round_seconds=random.Random(f"rounds {seed}").choice((5.0, 20.0, 100.0)))
        self.oracle = Oracle(self.policy)
        self.now = START
        self.serial = 0
        self.steps: list[str] = []
        self.results: list[CycleResult] = []
        # Dice of their own: the histories of the other seeds are as they were before there were such things.
        self.elsewhere = random.Random(f"elsewhere {seed}") if seed % 3 == 0 else None
        self.pods = random.Random(f"pods {seed}") if seed % 4 == 1 else None
        self.turns = random.Random(f"turns {seed}") if self.policy.round_seconds else None
        self.domains = (PowerDomain("rack", "r0", 3000.0),) if self.dice.random() < 0.2 else ()
        self._fleet()
        self._queues()
        self.engine = self._engine()

    # -- the world -------------------------------------------------------------------------------

    def _fleet(self) -> None:
        for number in range(self.dice.randint(2, 5)):
            name = f"n{number}"
            model = self.dice.choice(list(MODELS))
            count = self.dice.choice((1, 2, 4, 4, 8))
            self.oracle.classes |= {f"{name}/{index}": MODELS[model][0] for index in range(count)}
            self.oracle.nodes[name] = Node(
                name=name,
                devices=tuple(a_device(name, index, model, count) for index in range(count)),
                cpu_milli=self.dice.choice((4_000, 32_000)),
                memory_bytes=self.dice.choice((32, 256)) * GIB,
                topology={"rack": f"r{number // 2}", "block": f"b{number // 4}"} if self.dice.random() < 0.8 else {},
                power_cap_watts=self.dice.choice((None, None, 2500.0)),
                telemetry_exempt=self.dice.random() < 0.4,
            )
            if self.elsewhere is not None:
                self.oracle.nodes[name] = by_others(self.oracle.nodes[name], self.elsewhere)
            if self.pods is not None:
                self.oracle.nodes[name] = crowded(self.oracle.nodes[name], self.pods)

    def _queues(self) -> None:
        dice = self.dice
        root = Queue("root", device_limit=dice.choice((None, None, 6)))
        self.oracle.queues = {"root": root}
        # Often of one kind: then there is something to borrow and to take back.
        common = dice.choice((None, None, "", "GPU"))
        for name in ("a", "b", "c", "plain"):
            quotas = ()
            if name != "plain" and dice.random() < (0.5 if common is None else 0.9):
                quotas = (
                    Quota(
                        accelerator=dice.choice(("", "GPU", "H100-SXM")) if common is None else common,
                        milli=1000 * dice.randint(0, 4),
                        borrowing_limit=dice.choice((None, 0, 2000)),
                        lending_limit=dice.choice((None, 0, 1000)),
                    ),
                )
            self.oracle.queues[name] = Queue(
                name,
                parent="" if name == "plain" else dice.choice(("", "root")),
                weight=dice.choice((1.0, 2.0)),
                quotas=quotas,
                reclaim=dice.choice(list(Reclaim)),
                protected_seconds=dice.choice((0.0, 0.0, 40.0)),
            )

    def _engine(self) -> Engine:
        """A core that knows the world, as after a restart."""
        engine = self.make(self.policy)
        engine.set_accelerators(CATALOGUE)
        engine.set_profiles(PROFILES)
        engine.set_power_domains(self.domains)
        for node in self.oracle.nodes.values():
            engine.apply_node(node)
        engine.set_queues(self.oracle.queues.values())
        for sample in self.oracle.samples.values():
            engine.apply_sample(sample)
        for job_id, claim in sorted(self.oracle.held.items()):
            engine.restore(claim)
            if job_id in self.oracle.ending:
                engine.ending(job_id)
            engine.leaving(job_id, self.oracle.leaving.get(job_id, ()))
        for job in self.oracle.waiting.values():
            engine.submit(job)
        return engine

    def _job(self) -> Job:
        self.serial += 1
        return a_job(self.dice, f"j{self.serial:03d}", self.now)

    # -- events ----------------------------------------------------------------------------------

    def step(self) -> None:
        name = self.dice.choices(list(EVENTS), list(EVENTS.values()))[0]
        self.steps.append(f"{self.now - START:5.0f} s  {name}")
        getattr(self, name)()
        if self.elsewhere is not None and self.elsewhere.random() < 0.3:
            changed = self.elsewhere.choice(sorted(self.oracle.nodes))
            self.steps.append(f"         others on {changed}")
            self._declare(by_others(self.oracle.nodes[changed], self.elsewhere))
        if self.pods is not None and self.pods.random() < 0.3:
            changed = self.pods.choice(sorted(self.oracle.nodes))
            self.steps.append(f"         pods of {changed}")
            self._declare(crowded(self.oracle.nodes[changed], self.pods))
        if self.resizes is not None:
            self._elastic(self.resizes)
        if self.turns is not None and self.turns.random() < 0.7:
            self._another_round(self.turns)
        self.cycle()
        if name == "pass_time" and not self.domains:
            # A plan that found nothing is not tried again at once: time has to pass first.
            unfair = passed_over_for_lower(self.oracle, self.now)
            require(not unfair, unfair)

    def _elastic(self, dice: random.Random) -> None:
        """An elastic gang comes, or who may take of one; who is placed starts, who was told to leave has left."""
        if dice.random() < 0.3:
            self.serial += 1
            high = Job(f"j{self.serial:03d}", queue="plain", devices=dice.choice((1, 1, 2, 3)), priority=3, attempt=1)
            self.oracle.submit(replace(high, submitted_at=self.now))
            self.engine.submit(replace(high, submitted_at=self.now))
        if dice.random() < 0.6:
            self.serial += 1
            wished = dice.randint(2, 6)
            shapes: tuple[dict[str, Any], ...] = (
                {"devices": 1}, {"devices": 1}, {"devices": 2}, {"device_milli": 500}, {"cpu_milli": 1_000},
                {"partition": "1g.10gb"}, {"devices": 1, "max_devices": 2},
            )  # fmt: skip
            near: tuple[dict[str, Any], ...] = (
                {}, {}, {"topology_level": dice.choice(("rack", "node")), "topology_required": dice.random() < 0.6},
                {"group_size": 2, "group_level": dice.choice(("node", "rack"))},
            )  # fmt: skip
            job = Job(
                job_id=f"e{self.serial:03d}",
                queue=dice.choice(("a", "b", "c", "plain")),
                priority=dice.choice((0, 0, 1)),
                preemptible=dice.random() < 0.8,
                replicas=wished,
                min_replicas=dice.randint(1, wished - 1),
                expected_duration_seconds=dice.choice((None, 60.0)),
                submitted_at=self.now,
                attempt=1,
                **dice.choice(shapes) | dice.choice(near),
            )
            if dice.random() < 0.25:
                job = led(job, dice)
            self.oracle.submit(job)
            self.engine.submit(job)
        if dice.random() < 0.5:
            self.start()
        if dice.random() < 0.5:
            self.members_leave(dice)
        if dice.random() < 0.3:
            self._calm(dice)

    def _calm(self, dice: random.Random) -> None:
        """Most who wait are withdrawn and some devices become free: then there is room to grow."""
        for job_id in sorted(self.oracle.waiting):
            if dice.random() < 0.8:
                del self.oracle.waiting[job_id]
                self.engine.withdraw(job_id)
        for job_id in sorted(self.oracle.held):
            if not job_id.startswith("e") and job_id not in self.oracle.ending and dice.random() < 0.5:
                self._end(job_id)
        self.start()
        self.now += dice.choice((1.0, 45.0))

    def members_leave(self, dice: random.Random | None = None) -> None:
        for job_id in sorted(self.oracle.leaving):
            members = sorted(self.oracle.leaving[job_id])
            if dice is not None and len(members) > 1 and dice.random() < 0.4:
                members = members[:-1]
            attempt = self.oracle.held[job_id].job.attempt
            self.oracle.members_gone(job_id, members, self.now)
            self.engine.members_gone(job_id, attempt, members, self.now)

    def _another_round(self, dice: random.Random) -> None:
        """Who waits is placed and runs, more come than there is room for, and the round ends."""
        self.steps.append("         another round")
        self.cycle()
        self.start()
        self.now += self.policy.round_seconds * dice.choice((0.3, 1.0, 1.5))
        for _ in range(dice.choice((0, 2, 5))):
            self.serial += 1
            job = in_turns(plain_job(self.dice, f"j{self.serial:03d}", self.now), dice)
            job = replace(job, queue=dice.choice(("plain", "plain", "a", "b")), workload=dice.choice(("", "w")))
            self.oracle.submit(job)
            self.engine.submit(job)

    def submit(self) -> None:
        for _ in range(self.dice.randint(1, 3)):
            job = self._job()
            if self.turns is not None and self.turns.random() < 0.7:
                job = in_turns(job, self.turns)
            if self.elsewhere is not None and job.queue != "plain":
                own = tuple(replace(one, nodes=self.elsewhere.choice((None, NodeConstraints()))) for one in job.groups)
                job = replace(job, nodes=constraints(self.elsewhere), groups=own)
            self.oracle.submit(job)
            self.engine.submit(job)

    def pass_time(self) -> None:
        self.now += self.dice.choice((1.0, 10.0, 45.0, 130.0))

    def finish(self) -> None:
        """A job ends. One that was told to stop waits again, as a new attempt."""
        held = sorted(self.oracle.held)
        for job_id in self.dice.sample(held, min(len(held), self.dice.randint(1, 2))):
            ending = job_id in self.oracle.ending
            job = self.oracle.release(job_id)
            self.engine.release(job_id)
            if ending and job is not None:
                self._again(job)

    def stop_those_told(self) -> None:
        for job_id in sorted(self.oracle.ending):
            job = self.oracle.release(job_id)
            self.engine.release(job_id)
            assert job is not None
            self._again(job)

    def _again(self, job: Job) -> None:
        again = replace(job, attempt=job.attempt + 1, not_before=self.now + self.dice.choice((0.0, 0.0, 5.0)))
        self.oracle.submit(again)
        self.engine.submit(again)

    def start(self) -> None:
        for job_id in sorted(self.oracle.held):
            if self.oracle.held[job_id].started_at is None:
                self.oracle.started(job_id, self.now)
                self.engine.started(job_id, self.oracle.held[job_id].job.attempt, self.now)

    def withdraw(self) -> None:
        if self.oracle.waiting:
            job_id = self.dice.choice(sorted(self.oracle.waiting))
            del self.oracle.waiting[job_id]
            self.engine.withdraw(job_id)

    def sample(self) -> None:
        for name in self.dice.sample(sorted(self.oracle.nodes), self.dice.randint(1, len(self.oracle.nodes))):
            dice = self.dice
            readings = tuple(
                DeviceSample(
                    device.device_id,
                    memory_used_bytes=dice.choice((None, 0, GIB)),
                    margin_celsius=dice.choice((None, 30.0, 30.0, 12.0, 6.0, 2.0)),
                    power_watts=dice.choice((None, 60.0)),
                    throttle_bits=dice.choice((None, 0, 0, 0, 4, 0x40)),
                    error_code=dice.choice((None, 0, 0, 0, 0, 79)),
                    healthy=dice.choice((None, True, True, True, False)),
                )
                for device in self.oracle.nodes[name].devices
            )
            sample = NodeSample(node=name, received_at=self.now, devices=readings)
            self._tell(sample)

    def cordon(self) -> None:
        name = self.dice.choice(sorted(self.oracle.nodes))
        node = self.oracle.nodes[name]
        self._declare(replace(node, schedulable=not node.schedulable))

    def restart(self) -> None:
        """A new planner reads the ledger: the same claims, the same jobs, the same use of each queue."""
        before = self.used_by_device(self.engine)
        usage = [(one.name, one.used_milli, one.running_jobs) for one in self.engine.queue_usage() if one.running_jobs]
        self.engine = self._engine()
        self.oracle.restarted()
        require(self.used_by_device(self.engine) == before, "a restart changed what devices hold")
        after = [(one.name, one.used_milli, one.running_jobs) for one in self.engine.queue_usage() if one.running_jobs]
        require(after == usage, f"a restart changed what queues use: {usage}, then {after}")

    def fail_to_commit(self) -> None:
        """Decisions and preemptions of a cycle are taken back: nothing of them stays."""
        self.dice.choice((self.submit, self.submit, self.finish, self.stop_those_told))()
        before, kept = self._digest(), dict(self.engine._bookings.nominations)
        on_their_way = {*self.oracle.ending, *self.engine._leaving}
        result = self.engine.cycle(self.now)
        for resize in reversed(result.resizes):
            self.engine.undo_resize(resize)
        for preemption in result.preemptions:
            self.engine.undo_preemption(preemption.job_id, preemption.attempt)
        for decision in reversed(result.decisions):
            self.engine.undo(decision.job_id, decision.attempt)
        held = {job_id for job_id in self.oracle.held if self.engine.holds(job_id) is not None}
        require(held == set(self.oracle.held), "an undo lost claims")
        require(self._digest() == before, "an undo left something behind")
        # No decision's doing: a place that was free or on its way before was found, one was kept long enough in vain.
        now_kept = self.engine._bookings.nominations
        for job_id, booking in now_kept.items():
            waits = kept.get(job_id) != booking and not on_their_way.issuperset(booking.after)
            require(not waits, f"an undo left a place for {job_id} that waits for jobs that stay")
        if not on_their_way:
            early = [one for one, b in kept.items() if self.now - b.at < self.policy.nomination_seconds]
            require(all(one in now_kept for one in early), "an undo lost a place that was kept")

    def _digest(self) -> bytes:
        """The state without the places that are kept."""
        engine = self.engine
        told = (*sorted(engine._ending), *sorted(engine._leaving))
        return digest(engine._fleet, engine._queues, engine._claims, told)

    def ask(self) -> None:
        """Questions change nothing."""
        before = self.engine.state_digest()
        for job_id in sorted(self.oracle.waiting)[:1]:
            rejection = self.engine.explain(job_id, self.now)
            require(rejection is not None and rejection.job_id == job_id, f"no explanation of {job_id}")
        self.engine.dry_run(self._job(), self.now)
        for job_id, claim in self.oracle.held.items():
            size = self.engine.gang_size(job_id, self.now)
            leaving = len(self.oracle.leaving.get(job_id, ()))
            require(size is None or (size.members, size.leaving) == (len(claim.members) - leaving, leaving), f"{size}")
        require(self.engine.state_digest() == before, "a question changed the state")

    def cycle(self) -> None:
        result = self.engine.cycle(self.now)
        self.results.append(result)
        self.oracle.check(result, self.now)
        if not self.domains:
            past = grown_past_who_waits(self.oracle, result)
            require(not past, past)
        for job_id, claim in self.oracle.held.items():
            known = self.engine.holds(job_id)
            require(known is not None and known.members == claim.members, f"the core holds otherwise for {job_id}")
        require(self.engine.waiting() == len(self.oracle.waiting), "jobs were lost or made up")

    @staticmethod
    def used_by_device(engine: Engine) -> dict[str, int]:
        views = [engine.node_view(name, START) for name in engine.node_names()]
        return {one.device.device_id: one.used_milli for view in views if view for one in view.devices}

    def the_end(self) -> None:
        """When all ends and all is well, all is free again and whoever waits is served in turn, or says why not."""
        self.members_leave()
        self.stop_those_told()
        for job_id in sorted(self.oracle.held):
            self._end(job_id)
        require(not any(self.used_by_device(self.engine).values()), "devices are still held after all has ended")
        require(not any(one.used_milli for one in self.engine.queue_usage()), "queues still use devices")
        for node in list(self.oracle.nodes.values()):
            free = tuple(replace(device, held_by="") for device in node.devices)
            clear = replace(
                node,
                schedulable=True,
                devices=free,
                taints=(),
                cpu_milli_elsewhere=0,
                memory_bytes_elsewhere=0,
                pods_elsewhere=0,
            )
            if clear != node:
                self._declare(clear)
        for _ in range(8):  # for so long that a cordon is lifted
            self.all_well()
        # Idle for longer than a place is kept in vain.
        idle = 0
        while idle < 3:
            self.all_well()
            self.cycle()
            idle = 0 if self.results[-1].decisions else idle + 1
            self.members_leave()
            for job_id in sorted(self.oracle.held):
                self._end(job_id)
        for job in () if self.domains else self.oracle.waiting.values():  # budgets of racks bind in their own way
            require(not must_be_placed_on_an_empty_fleet(self.oracle, job), f"{job.job_id} waits on an empty fleet")
        left = sorted(self.oracle.waiting)[:1]
        require(all(self._says_why(job_id) for job_id in left), "a job waits on an empty fleet and has no reason")

    def all_well(self) -> None:
        self.now += 50.0
        for name, node in self.oracle.nodes.items():
            well = {"memory_used_bytes": 0, "margin_celsius": 30.0, "throttle_bits": 0, "error_code": 0}
            readings = tuple(DeviceSample(device.device_id, healthy=True, **well) for device in node.devices)
            self._tell(NodeSample(node=name, received_at=self.now, devices=readings))

    def _end(self, job_id: str) -> None:
        self.oracle.release(job_id)
        self.engine.release(job_id)

    def _declare(self, node: Node) -> None:
        self.oracle.node_changed(node)
        self.engine.apply_node(node)

    def _tell(self, sample: NodeSample) -> None:
        self.oracle.hear(sample)
        self.engine.apply_sample(sample)

    def _says_why(self, job_id: str) -> bool:
        rejection = self.engine.explain(job_id, self.now)
        return rejection is not None and bool(rejection.reasons)


EVENTS = {
    "submit": 6,
    "pass_time": 3,
    "finish": 3,
    "stop_those_told": 2,
    "start": 1,
    "withdraw": 1,
    "sample": 3,
    "cordon": 1,
    "restart": 0.5,
    "fail_to_commit": 1,
    "ask": 1,
}


def run(seed: int, steps: int = 14, make: Callable[[Policy], Engine] = Engine) -> History:
    """Raises Broken where a rule does not hold."""
    history = History(seed, make)
    for _ in range(steps if history.resizes is None else 2 * steps):
        history.step()
    history.the_end()
    return history
