"""Rules of the core, each broken on purpose: the simulation, or else the named unit tests, must notice.

`python -m tests.simulation.mutants` (or `make mutants`) breaks one rule after the other in a copy of the core and
tells after how many seeds it was noticed; names as arguments pick some. It fails where one was not.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant", "Outcome", "source", "try_out"]

ROOT = Path(__file__).parents[2]
DOMAIN = ROOT / "services" / "placement_engine" / "domain"
UNIT = "tests/unit/placement_engine/domain"
SEEDS = 1500
"""Most histories that are run against one mutant."""
SECONDS = 240.0
"""A mutant under which the core never ends is noticed too."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file` (below domain/). `tests`: for a rule of which a history shows nothing."""

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    noticed: bool
    by: str


MUTANTS = (
    Mutant(
        "capacity",
        "filters/capacity.py",
        "{FREE: ask.shape.milli_per_device}",
        "{FREE: 0}",
        "a device is claimed up to 1000 thousandths",
    ),
    Mutant(
        "cpu",
        "filters/host_resources.py",
        "asked = {CPU: ask.shape.cpu_milli,",
        "asked = {CPU: 0,",
        "a node's CPU is not promised twice",
    ),
    Mutant(
        "gang-whole",
        "part_claims.py",
        "if len(members) == chosen.size:",
        "if members:",
        "a gang is placed whole or not at all",
    ),
    Mutant(
        "elastic-minimum",
        "spreading.py",
        "np.where(most >= need.least, most, 0)",
        "np.where(most >= 1, most, 0)",
        "an elastic gang has its least members",
    ),
    Mutant(
        "shrinks-to-the-minimum",
        "surplus.py",
        "beyond = members[need.least :]",
        "beyond = members[max(1, need.least - 1) :]",
        "a running gang keeps its least members",
    ),
    Mutant(
        "surplus-first",
        "preemption.py",
        "spared = self.spared(now) if self._policy.resize_gangs else []",
        "spared: list[Victim] = []",
        "what a running gang can do without goes before anybody is stopped",
        f"{UNIT}/test_resizing.py",
    ),
    Mutant(
        "grows-past-who-waits",
        "resizing.py",
        "free = ~self._wanted(now)",
        "free = ~np.zeros(self._fleet.columns.rows, dtype=np.bool_)",
        "what a waiting job could use is nobody's to grow into",
    ),
    Mutant(
        "grows-at-once",
        "resizing.py",
        "wait = since + self._policy.grow_after_seconds - now",
        "wait = claim.started_at - now",
        "a gang keeps its size for a while",
    ),
    Mutant(
        "grows-out-of-its-domain",
        "resizing.py",
        "return (*(rows & inside for rows in levels), inside)",
        "return (*levels, free)",
        "new members sit in the required domain",
    ),
    Mutant(
        "leaving-counts-as-gone",
        "intake.py",
        "self._fleet.let_go_all(job_id, gone, ended=True)",
        "self._fleet.let_go_all(job_id, gone[:1], ended=True)",
        "members that have left hold nothing",
    ),
    Mutant(
        "topology-required",
        "spreading.py",
        "return tuple(found) if wishes.required else (*found, everything)",
        "return (*found, everything)",
        "a gang sits in one domain where it must",
    ),
    Mutant(
        "group-domain",
        "spreading.py",
        "_spread_groups(room, at, size, need.group_size, outer, inner) if outer else _spread(room, at, size, inner)",
        "_spread(room, at, size, inner)",
        "each group of members sits in one domain",
    ),
    Mutant(
        "quota-room",
        "quotas.py",
        "may[number] = all(rooms.get(ledger.key, asked) >= asked for ledger in covering)",
        "may[number] = True",
        "queues together hold no more than they own",
    ),
    Mutant(
        "lending-limit",
        "quotas.py",
        "line.kept = max(0, line.stored - quota.lending_limit)",
        "line.kept = 0",
        "what a queue does not lend stays its own",
    ),
    Mutant(
        "borrowing-limit",
        "quotas.py",
        "borrowing=quota.borrowing_limit if quota else None,",
        "borrowing=None,",
        "a queue borrows no more than it may",
    ),
    Mutant(
        "device-limit",
        "answers.py",
        "queue = self._queues.limit_hit(job.queue, asked) if asked else None",
        "queue = None",
        "a queue holds no more devices than its limit",
    ),
    Mutant(
        "elastic-by-least",
        "elastic.py",
        "counted = replace(job, devices=ask.shape.whole) if ask.shape.flexible else job",
        "counted = job",
        "members count by the devices that they get",
    ),
    Mutant(
        "priority",
        "preemption.py",
        "if v.claim.job.priority < job.priority and v.claim.job.preemptible]",
        "if v.claim.job.priority <= job.priority and v.claim.job.preemptible]",
        "only lower priorities are stopped",
    ),
    Mutant(
        "preemptible",
        "preemption.py",
        "if v.claim.job.priority < job.priority and v.claim.job.preemptible]",
        "if v.claim.job.priority < job.priority]",
        "only preemptible jobs are stopped by priority",
    ),
    Mutant(
        "no-preemption",
        "preemption.py",
        "if self._plans_left <= 0 or (now < until and tried == job):",
        "if self._plans_left <= 8:",
        "the first of the queue stops lower ones where that helps",
    ),
    Mutant(
        "protected",
        "preemption.py",
        "return now - claim.started_at < seconds",
        "return False",
        "a job runs for its protected seconds",
    ),
    Mutant(
        "stopped-twice",
        "intake.py",
        "if job_id in self._claims:\n            self._ending.add(job_id)",
        "if job_id in self._claims:\n            pass",
        "a job is stopped once, also across a restart",
    ),
    Mutant(
        "entitlement",
        "entitlement.py",
        "stake.used(at) + stake.amount(at, change) <= stake.owned(at)",
        "stake.used(at) >= 0",
        "a queue takes back no more than it owns",
        f"{UNIT}/test_entitlement.py",
    ),
    Mutant(
        "reclaim-leaves",
        "entitlement.py",
        "stake.used(at) - stake.amount(at, change) >= stake.owned(at)",
        "stake.used(at) >= 0",
        "a reclaim leaves the other what it owns",
    ),
    Mutant(
        "reclaim-never",
        "entitlement.py",
        "if policy is Reclaim.NEVER or (policy",
        "if (policy",
        "a queue that never reclaims does not",
    ),
    Mutant(
        "victims-trimmed",
        "victims.py",
        "            members = self._trimmed(chosen, members)\n",
        "",
        "nobody is stopped who is not needed",
        f"{UNIT}/test_preemption.py",
    ),
    Mutant(
        "backfill",
        "reservations.py",
        "in_time[m] = most is not None and now + most <= at",
        "in_time[m] = True",
        "a job that is backfilled ends before the reserved start",
        f"{UNIT}/test_reservations.py",
    ),
    Mutant(
        "nomination",
        "reservations.py",
        "with self._kept(self.nominations.values()):",
        "with self._kept(()):",
        "what was freed for a job is kept for it",
        f"{UNIT}/test_preemption.py",
    ),
    Mutant(
        "node-power",
        "filters/power_headroom.py",
        "return view.rows(NODE_WATTS) >= member_watts(view, ask)",
        "return view.rows(NODE_WATTS) > float('-inf')",
        "a node's power budget holds",
        f"{UNIT}/test_filters.py",
    ),
    Mutant(
        "heat-floor",
        "telemetry.py",
        "return margin >= (floor if was_cool else",
        "return margin >= (floor - 4 if was_cool else",
        "a hot device takes no work",
    ),
    Mutant(
        "heat-hysteresis",
        "telemetry.py",
        "return margin >= (floor if was_cool else floor + policy.heat_hysteresis_celsius)",
        "return margin >= floor",
        "a device that was hot cools down before it takes work",
    ),
    Mutant(
        "heat-forecast",
        "telemetry.py",
        "return self.margin + self.slope * policy.heat_forecast_seconds",
        "return self.margin",
        "a device whose margin falls fast takes no work",
    ),
    Mutant(
        "throttle",
        "telemetry.py",
        "BLOCKING_BITS = 0x8 | 0x20 | 0x40 | 0x80",
        "BLOCKING_BITS = 0x8 | 0x20 | 0x80",
        "a throttled device takes no work",
    ),
    Mutant(
        "error-code",
        "health_watch.py",
        "code = fault_code(sample, stack)\n        if code:",
        "code = fault_code(sample, stack)\n        if code < 0:",
        "an error cordons a device",
    ),
    Mutant(
        "sick",
        "facts.py",
        "if not is_well(self.sample, self.device.stack):",
        "if False:",
        "a device that says it is unhealthy takes no work, cordon or not",
    ),
    Mutant(
        "cordon-lasts",
        "health_watch.py",
        "if at - self.well_since >= policy.cordon_clear_seconds:",
        "if at - self.well_since >= 0:",
        "a device is well for some time before its cordon ends",
    ),
    Mutant(
        "staleness",
        "filters/staleness.py",
        "else tier != UNSCHEDULABLE",
        "else tier >= 0",
        "a node that fell silent takes no work",
    ),
    Mutant(
        "partition-overlap",
        "partitions.py",
        "            if not mask & slices(partition, start)\n        ]",
        "        ]",
        "partitions do not overlap",
    ),
    Mutant(
        "partition-or-share",
        "facts.py",
        "return min(free, 0) if cuts else free, state",
        "return free, state",
        "a partitioned device takes no fractions",
    ),
    Mutant(
        "share-rounding",
        "sharing.py",
        "return -(-share_bytes * WHOLE_DEVICE // total_bytes)",
        "return share_bytes * WHOLE_DEVICE // total_bytes",
        "a share is no less than its memory",
    ),
    Mutant(
        "undo",
        "intake.py",
        "        if job_id not in self._queues.jobs:\n            self._queues.add(claim.job)",
        "        self._queues.jobs.get(job_id)",
        "a decision that is taken back leaves the job waiting",
    ),
    Mutant(
        "undo-preemption",
        "intake.py",
        "self._bookings.stays(job_id)",
        "pass",
        "a preemption that is taken back keeps no place",
    ),
    Mutant(
        "undo-nomination",
        "intake.py",
        "self._bookings.not_placed(job_id)",
        "pass",
        "a placement that is taken back keeps the place that was kept",
    ),
    Mutant(
        "plan-over-quota",
        "victims.py",
        "if members is not None and accept(Plan((), members)):",
        "if members is not None:",
        "a job over its quota keeps no place",
    ),
    Mutant(
        "restore",
        "intake.py",
        "self._ends.put(claim)\n        self._charge(claim, 1)\n\n    def started",
        "self._ends.put(claim)\n\n    def started",
        "a restart knows what queues use",
    ),
    Mutant(
        "release",
        "intake.py",
        "            self._charge(claim, -1)\n            if now is not None:",
        "            if now is not None:",
        "what ended is no longer charged",
    ),
    Mutant(
        "held-elsewhere",
        "fleet.py",
        "            blocked |= col.HELD",
        "            pass",
        "a device that somebody outside Berth has takes no work",
    ),
    Mutant(
        "cpu-elsewhere",
        "fleet.py",
        "float(node.cpu_milli - facts.used_cpu - node.cpu_milli_elsewhere),",
        "float(node.cpu_milli - facts.used_cpu),",
        "what others have of a node is not free",
    ),
    Mutant(
        "pod-limit",
        "filters/pod_limit.py",
        "return {PODS: 1.0}",
        "return {PODS: 0.0}",
        "a node takes no more pods than it allows",
    ),
    Mutant(
        "pods-of-a-gang",
        "reserve.py",
        "    fits = np.minimum(fits, np.maximum(view.rows(PODS), 0.0))\n",
        "",
        "each member of a gang is a pod",
    ),
    Mutant(
        "pods-elsewhere",
        "fleet.py",
        "float(node.pod_limit - facts.used_pods - node.pods_elsewhere)",
        "float(node.pod_limit - facts.used_pods)",
        "pods of others count",
    ),
    Mutant(
        "pods-of-a-reservation",
        "reservations.py",
        "less_pods = min(pods, member.pods)",
        "less_pods = member.pods",
        "what is kept for a job that waits are its pods, too",
        f"{UNIT}/test_pod_limit.py",
    ),
    Mutant(
        "pods-stopped-for",
        "victims.py",
        "freed = need if no_pod_left else member.cpu_milli",
        "freed = member.cpu_milli",
        "where pods are short, each that is stopped leaves one",
        f"{UNIT}/test_pod_limit.py",
    ),
    Mutant(
        "node-selector",
        "filters/node_selector.py",
        'return ask.reach.selected.take(view.node, mode="clip")',
        "return np.ones(view.node.shape[0], dtype=np.bool_)",
        "a job sits where its constraints allow",
    ),
    Mutant(
        "taints",
        "filters/taints.py",
        'return ask.reach.barred.take(view.node, mode="clip") < 0',
        "return np.ones(view.node.shape[0], dtype=np.bool_)",
        "a taint that is not tolerated keeps a job away",
    ),
    Mutant(
        "relabelled",
        "tables.py",
        "-hosting.version, -reach, -marked)",
        "-hosting.version, -marked)",
        "a node that changed its labels or taints is looked at anew",
        f"{UNIT}/test_node_constraints.py",
    ),
    Mutant(
        "deadline",
        "answers.py",
        "if job.deadline is not None and now > job.deadline:",
        "if job.deadline is not None and now > job.deadline + 60:",
        "no job starts after its deadline",
    ),
    Mutant(
        "back-off",
        "queues.py",
        "if job.not_before > now_known:",
        "if job.not_before > now_known and not job.attempt:",
        "a job is not tried during its back-off",
    ),
    Mutant(
        "round-preemptible",
        "attained.py",
        "        job.preemptible\n        and job.checkpoint_seconds",
        "        job.checkpoint_seconds",
        "a round stops nobody who is not preemptible",
        f"{UNIT}/test_rounds.py",
    ),
    Mutant(
        "round-least-run",
        "rounds.py",
        "least = LEAST_RUN * self._policy.round_seconds - SLACK_SECONDS",
        "least = 0.0",
        "a place that a round gave is held for half a round",
    ),
    Mutant(
        "round-least-gain",
        "rounds.py",
        "*= 1.0 + LEAST_GAIN + lost / horizon",
        "*= 1.0",
        "a change of places is worth what it costs",
        f"{UNIT}/test_rounds.py",
    ),
    Mutant(
        "round-patience",
        "overdue.py",
        "order[:TRIED_A_ROUND]",
        "order[:0]",
        "who takes no turns does not wait for ever on those who do",
        f"{UNIT}/test_rounds.py",
    ),
    Mutant(
        "round-quotas",
        "overdue.py",
        "return keeps_its_quotas(self._queues, queue, job.queue, freed)",
        "return True",
        "a round leaves a queue what it has a quota of",
        f"{UNIT}/test_rounds.py",
    ),
    Mutant(
        "place-kept-for-ever",
        "reservations.py",
        "                self._give_up_in_time(job_id, booking, now)",
        "                pass",
        "a place that is kept in vain is given up in time",
        f"{UNIT}/test_preemption.py",
    ),
)


def source(mutant: Mutant) -> str:
    """The mutated text. ValueError: the core was rewritten there, and the table must follow."""
    text = (DOMAIN / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"mutant {mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


def try_out(mutant: Mutant, seeds: int = SEEDS) -> Outcome:
    """The simulation against a copy of the core with this mutant in it; then its unit tests, where it names some."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "placement_engine"
        shutil.copytree(DOMAIN.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "domain" / mutant.file).write_text(source(mutant))
        environment = os.environ | {"PYTHONPATH": folder}
        found = Outcome(False, f"not noticed in {seeds} seeds")
        if seeds and not mutant.tests:
            found = _run([__spec__.name, "--probe", folder, str(seeds)], environment)
        if mutant.tests:
            unit = _run(["pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.tests], environment)
            found = Outcome(unit.noticed, Path(mutant.tests).name if unit.noticed else "not noticed by its unit tests")
        return found


def _run(module: list[str], environment: dict[str, str]) -> Outcome:
    command = [sys.executable, "-m", *module]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(True, f"it did not end within {SECONDS:g} s")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} failed by itself: {done.stderr or done.stdout}")
    lines = done.stdout.strip().splitlines()
    return Outcome(done.returncode == 1, lines[-1] if lines else done.stderr)


def probe(folder: str, seeds: int) -> int:
    """Runs seeds up to the first that is broken, on the core in `folder`."""
    import placement_engine
    from tests.simulation.history import run

    if not str(placement_engine.__file__).startswith(folder):
        print(f"the core in {folder} was not imported, but {placement_engine.__file__}", file=sys.stderr)
        return 2
    for seed in range(seeds):
        try:
            run(seed)
        except Exception as broken:  # a core that fails by itself is noticed as well
            print(f"seed {seed}: {type(broken).__name__}: {broken}")
            return 1
    print(f"not noticed in {seeds} seeds")
    return 0


def main(names: list[str]) -> int:
    lived = []
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        outcome = try_out(mutant)
        print(f"{mutant.name:20} {'noticed' if outcome.noticed else 'LIVES  '}  {outcome.by}", flush=True)
        if not outcome.noticed:
            lived.append(mutant.name)
    print(f"{len(lived)} live: {', '.join(lived)}" if lived else "every mutant is noticed")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(probe(sys.argv[2], int(sys.argv[3])) if "--probe" in sys.argv[1:2] else main(sys.argv[1:]))
