"""What must hold for any tree of queues: quotas, exact undo, no ping-pong, no starvation."""

import random
from collections.abc import Mapping

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from placement_engine.domain.engine import Engine
from placement_engine.domain.entitlement import Level, Stake, entitled, may_take_from
from placement_engine.domain.model import Job, Profile, Queue, Quota
from placement_engine.domain.policy import Policy
from placement_engine.domain.queues import PastUse, Queues
from placement_engine.domain.quotas import Ledger, Quotas
from tests.unit.placement_engine.domain.builders import NOW, a_job, a_node
from tests.unit.placement_engine.domain.queue_builders import H100, L4, NAMES, a_tree, hold, totals_of

NAMED = tuple("abcdef")
KINDS = ("H100", "L4", "GPU", "")
DEVICES = st.sampled_from((0.0, 0.5, 1.0, 2.0, 5.0))


@st.composite
def quotas(draw: st.DrawFn, kinds: tuple[str, ...]) -> tuple[Quota, ...]:
    def limit() -> int | None:
        devices = draw(st.none() | DEVICES)
        return None if devices is None else int(1000 * devices)

    chosen = draw(st.lists(st.sampled_from(kinds), unique=True, max_size=2)) if kinds else []
    return tuple(Quota(kind, int(1000 * draw(DEVICES)), limit(), limit()) for kind in chosen)


@st.composite
def trees(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> tuple[Queue, ...]:
    names = NAMED[: draw(st.integers(2, 6))]
    return tuple(
        Queue(
            name,
            parent=draw(st.sampled_from(("", *names[:number]))),
            weight=draw(st.sampled_from((1.0, 2.0, 3.0))),
            quotas=draw(quotas(kinds)),
        )
        for number, name in enumerate(names)
    )


# -- quotas ----------------------------------------------------------------------------------------


class AnyTree(RuleBasedStateMachine):
    """Queues take what they may, no more, and give it back."""

    @initialize(queues=trees())
    def plant(self, queues: tuple[Queue, ...]) -> None:
        self.tree = a_tree(*queues)
        self.held: list[tuple[str, int, float]] = []

    @rule(data=st.data(), model=st.sampled_from((H100, L4)), part=st.sampled_from((0.5, 1.0, 1.0)))
    def take(self, data: st.DataObject, model: int, part: float) -> None:
        queue = data.draw(st.sampled_from((*self.tree.known, "nobody")))
        room = self.tree.quotas.room(queue, NAMES[model].casefold())
        devices = 3.0 if room is None else int(room * part) / 1000
        if devices > 0:
            hold(self.tree, queue, model, devices)
            self.held.append((queue, model, devices))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.held:
            at = data.draw(st.integers(0, len(self.held) - 1))
            hold(self.tree, *self.held.pop(at), sign=-1)

    @rule()
    def the_same_queues_again(self) -> None:
        self.tree.set_queues(tuple(self.tree.known.values()))

    def used(self, ledger: Ledger, queue: str) -> int:
        """By jobs of the subtree that the ledger limits, summed from what is held."""
        covered = {model for model in (H100, L4) if ledger.key in (NAMES[model].casefold(), "gpu", "")}
        return sum(
            int(devices * 1000)
            for owner, model, devices in self.held
            if model in covered and ledger.line(owner) is not None and (not queue or queue in self.tree.path(owner))
        )

    @invariant()
    def limits_hold(self) -> None:
        for ledger in self.tree.quotas.ledgers:
            root = ledger.lines[""]
            everything = self.used(ledger, "")
            assert everything <= root.nominal, "siblings together hold no more than they own together"
            for line in ledger.lines.values():
                used = self.used(ledger, line.name)
                if line.borrowing is not None:
                    assert used <= line.nominal + line.borrowing
                never_lent = line.nominal - (line.stored - line.kept)
                assert everything - used <= root.nominal - never_lent, "nobody holds what is not lent"

    @invariant()
    def what_is_owned_can_be_had(self) -> None:
        """Unless others borrow it; what is kept back always."""
        for ledger in self.tree.quotas.ledgers:
            for line in ledger.lines.values():
                assert line.room() >= max(0, line.kept - line.used)
            children = {
                name: [o for o in ledger.lines.values() if o.parent is line] for name, line in ledger.lines.items()
            }
            for name, line in ledger.lines.items():
                used, below = self.used(ledger, name), children[name]
                own = used - sum(self.used(ledger, child.name) for child in below)
                if used > line.nominal or own > line.nominal - sum(child.nominal for child in below):
                    break
            else:
                for name, line in ledger.lines.items():
                    if not children[name]:
                        assert line.room() >= line.nominal - self.used(ledger, name)

    @invariant()
    def charges_are_exact(self) -> None:
        """Counted anew from nothing, every figure is the same."""
        fresh = Quotas(self.tree.models)
        fresh.set_queues(self.tree.known, self.tree._children)
        fresh.recount(self.tree.own)
        for ledger, other in zip(self.tree.quotas.ledgers, fresh.ledgers, strict=True):
            for name, line in ledger.lines.items():
                assert line.used == other.lines[name].used
        for name, usage in self.tree.usage.items():
            mine = [(m, d) for owner, m, d in self.held if name in self.tree.path(owner)]
            assert usage.devices == sum(int(d * 1000) for _, d in mine)
            assert usage.normal == 1000 * usage.devices
            assert usage.jobs == len(mine)


AnyTree.TestCase.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyTree = AnyTree.TestCase


# -- reclaim ---------------------------------------------------------------------------------------


@st.composite
def holdings(draw: st.DrawFn) -> Queues:
    """A tree in which every queue has work, whose devices went anywhere, with units of their own."""
    tree = a_tree(*draw(trees()))
    for name in tree.known:
        tree.add(a_job(f"waiting-{name}", queue=name, workload=draw(st.sampled_from(("", "dense", "flat")))))
    for workload, speed in (("dense", 1.0), ("flat", 9.0)):
        tree.models.estimator.put_profile(Profile(workload, "H100", 1, 10.0))
        tree.models.estimator.put_profile(Profile(workload, "L4", 1, speed))
    tree.reprice()
    tree.refresh()
    left = {H100: 8.0, L4: 4.0}
    for _ in range(draw(st.integers(1, 12))):
        model = draw(st.sampled_from((H100, L4)))
        devices = min(left[model], draw(st.sampled_from((0.5, 1.0, 2.0, 4.0))))
        if devices:
            give(tree, draw(st.sampled_from(sorted(tree.known))), model, int(devices * 1000))
            left[model] -= devices
    return tree


def give(tree: Queues, queue: str, model: int, milli: int) -> None:
    """Devices to a job whose work counts already, as it waits."""
    job = a_job(queue=queue, devices=0)
    tree.charge(job, {NAMES[model]: abs(milli)}, 0, 0, 1 if milli > 0 else -1)


def can_take(tree: Queues, taker: str, victim: str, milli: Mapping[int, int]) -> bool:
    totals = totals_of(tree)
    return entitled(tree, totals, taker, milli, against=victim) and may_take_from(tree, totals, victim, taker, milli)


def held(tree: Queues, queue: str, model: int) -> int:
    own = tree.own.get(queue)
    return own.models.get(NAMES[model].casefold(), 0) if own else 0


def move(tree: Queues, victim: str, taker: str, model: int, milli: int) -> None:
    give(tree, victim, model, -milli)
    give(tree, taker, model, milli)


def beyond_owned(tree: Queues) -> int:
    """What queues hold beyond what they own, of everything, at every level."""
    total = 0
    for ledger in (*tree.quotas.ledgers, None):
        stake = Stake(tree, ledger, frozenset(tree.known))
        for name in tree.known:
            levels = [Level(name), Level(name, direct=True)] if tree.children(name) else [Level(name)]
            total += sum(max(0, stake.used(level) - stake.owned(level)) for level in levels)
    return total


def reclaims(tree: Queues) -> list[tuple[str, str, int, int]]:
    """(taker, victim, model, milli) of all that are allowed now."""
    return [
        (taker, victim, model, milli)
        for taker in tree.known
        for victim in tree.known
        for model in (H100, L4)
        for milli in (500, 1000, 2000, 4000)
        if milli <= held(tree, victim, model) and can_take(tree, taker, victim, {model: milli})
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=holdings(), data=st.data())
def test_what_was_reclaimed_cannot_be_reclaimed_back(tree: Queues, data: st.DataObject) -> None:
    options = reclaims(tree)
    assume(options)
    taker, victim, model, milli = data.draw(st.sampled_from(options))
    move(tree, victim, taker, model, milli)
    for back in (1, 500, milli, 4 * milli):
        assert not can_take(tree, victim, taker, {model: back})


@settings(max_examples=80, deadline=None)
@given(tree=holdings(), seed=st.integers(0, 2**16))
def test_no_chain_of_reclaims_goes_on_for_ever(tree: Queues, seed: int) -> None:
    """Each lowers what is held beyond what is owned, by what it takes at least."""
    rng = random.Random(seed)
    names = sorted(tree.known)
    left = beyond_owned(tree)
    for _ in range(40):
        taker, victim = rng.choice(names), rng.choice(names)
        model, milli = rng.choice((H100, L4)), rng.choice((500, 1000, 2000))
        if milli > held(tree, victim, model) or not can_take(tree, taker, victim, {model: milli}):
            continue
        move(tree, victim, taker, model, milli)
        before, left = left, beyond_owned(tree)
        assert left <= before - milli


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=holdings(), data=st.data())
def test_nobody_is_pushed_below_what_it_owns(tree: Queues, data: st.DataObject) -> None:
    options = reclaims(tree)
    assume(options)
    taker, victim, model, milli = data.draw(st.sampled_from(options))
    before = {name: dict(usage.models) for name, usage in tree.usage.items()}
    move(tree, victim, taker, model, milli)
    for ledger in (*tree.quotas.ledgers, None):
        stake = Stake(tree, ledger, frozenset(tree.known))
        for name in tree.known:
            if stake.amount(Level(name), tree.usage[name].models if name in tree.usage else {}) < stake.amount(
                Level(name), before.get(name, {})
            ):
                assert stake.used(Level(name)) >= stake.owned(Level(name))


# -- restart ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(queues=trees(), seed=st.integers(0, 2**16))
def test_an_engine_rebuilt_with_its_past_decides_the_same(queues: tuple[Queue, ...], seed: int) -> None:
    """From nodes, queues, claims, waiting jobs and past use, which come in any order. Nobody is stopped here: for
    whom a job is being stopped is in no ledger, a rebuilt engine finds that again (test_preemption)."""
    rng = random.Random(seed)
    profiles = [Profile("w", "H100", 1, 10.0), Profile("w", "L4", 1, 4.0)]
    names = [queue.name for queue in queues]

    def an_engine() -> Engine:
        engine = Engine(Policy(usage_half_life_seconds=50.0, preemptions_per_cycle=0))
        engine.set_profiles(profiles)
        for node in rng.sample([a_node("big", 4), a_node("small", 4, "L4"), a_node("mixed", 2)], 3):
            engine.apply_node(node)
        engine.set_queues(queues)
        return engine

    def some_jobs(step: int) -> list[Job]:
        return [
            a_job(
                f"j{step}-{number}",
                queue=rng.choice(names),
                workload=rng.choice(("", "w")),
                devices=rng.choice((0, 1, 2)),
                cpu_milli=rng.choice((0, 4000)),
                submitted_at=float(number),
            )
            for number in range(5)
        ]

    first, jobs = an_engine(), dict[str, Job]()
    for step in range(4):
        for job in some_jobs(step):
            jobs[job.job_id] = job
            first.submit(job)
        first.cycle(NOW + 20 * step)
        for job_id in sorted(jobs):
            if first.holds(job_id) and rng.random() < 0.4:
                first.release(job_id, NOW + 20 * step + 10)
                del jobs[job_id]
    second = an_engine()
    for job_id in rng.sample(sorted(jobs), len(jobs)):
        claim = first.holds(job_id)
        if claim is not None:
            second.restore(claim)
        else:
            second.submit(jobs[job_id])
    second.restore_usage(first.usage_history())
    assert second.state_digest() == first.state_digest()
    for job in some_jobs(9):
        first.submit(job)
        second.submit(job)
    results = [engine.cycle(NOW + 100) for engine in (first, second)]
    assert [(d.job_id, d.members) for d in results[0].decisions] == [
        (d.job_id, d.members) for d in results[1].decisions
    ]
    assert second.queue_usage() == first.queue_usage()
    assert second.state_digest() == first.state_digest()


# -- starvation ------------------------------------------------------------------------------------

HALF_LIFE = 20.0


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    queues=trees(()),
    devices=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    half_life=st.sampled_from((0.0, HALF_LIFE)),
)
def test_every_job_is_placed_in_the_end(queues: tuple[Queue, ...], devices: int, seed: int, half_life: float) -> None:
    late = random.Random(seed).choice(queues).name
    is_placed_in_the_end(queues, late, devices, seed, half_life)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    queues=trees(("H100",)),
    seed=st.integers(0, 2**16),
    half_life=st.sampled_from((0.0, HALF_LIFE)),
)
def test_every_job_within_its_queues_quota_is_placed_in_the_end(
    queues: tuple[Queue, ...], seed: int, half_life: float
) -> None:
    """As long as quotas promise no more than there is, and for queues without children, which might own it all."""
    ledgers, parents = a_tree(*queues).quotas.ledgers, {queue.parent for queue in queues}
    owners = [q.name for q in queues if q.name not in parents and q.quotas and q.quotas[0].milli >= 1000]
    assume(owners)
    devices = -(-ledgers[0].lines[""].nominal // 1000)
    is_placed_in_the_end(queues, random.Random(seed).choice(owners), devices, seed, half_life)


def is_placed_in_the_end(queues: tuple[Queue, ...], late: str, devices: int, seed: int, half_life: float) -> None:
    """Others' jobs arrive for ever, never fewer than fill the pool, and the queue held the whole pool before.

    Bound: 20 half-lives, after which a millionth is left of what was held before.
    """
    rng = random.Random(seed)
    engine = Engine(Policy(usage_half_life_seconds=half_life))
    engine.apply_node(a_node(devices=devices))
    engine.set_queues(queues)
    names = [queue.name for queue in queues]
    engine.restore_usage([PastUse(name, 1.0, NOW) for name in engine._queues.path(late)])
    serial, now, ends = 0, NOW, dict[str, float]()

    def arrive() -> None:
        nonlocal serial
        for name in names:
            while sum(1 for job in engine._queues.jobs.values() if job.queue == name) < devices:
                serial += 1
                engine.submit(a_job(f"{name}{serial}", queue=name, submitted_at=now))

    def step() -> list[str]:
        nonlocal now
        now += 1.0
        for job_id in [job_id for job_id, end in ends.items() if end <= now]:
            del ends[job_id]
            engine.release(job_id, now)
        won = [decision.job_id for decision in engine.cycle(now).decisions]
        ends.update({job_id: now + rng.randint(1, 5) for job_id in won})
        return won

    arrive()
    step()
    engine.submit(a_job("late", queue=late, submitted_at=now))
    for _ in range(int(20 * HALF_LIFE)):
        arrive()
        if "late" in step():
            return
    raise AssertionError(f"a job of queue {late!r} was not placed in {20 * HALF_LIFE:g} seconds")
