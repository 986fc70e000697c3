"""The running engine itself on this protocol, with rounds on: jobs are submitted, it places and stops them by
`submit`, `cycle` and `release`, and this policy reports where its jobs sit.

Nodes have four devices; a job of several devices is a gang of members with one each. Jobs save their work once a round,
as the protocol has it: a stop at the end of a round loses nothing. The engine knows the throughputs as profiles. It is
told no duration, and when a job has ended.
"""

from dataclasses import replace

from placement_engine.domain.engine import Engine
from placement_engine.domain.model import Device, Job, Node, Profile
from placement_engine.domain.policy import Policy as EnginePolicy
from placement_engine.simulation.gavel.policies.base import Plan, Policy, Setting, View

__all__ = ["EngineWithoutRounds", "RunningEngine"]

NODE_DEVICES = 4
MOST_CYCLES = 1000


class RunningEngine(Policy):
    rounds = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.engine = Engine(EnginePolicy(round_seconds=setting.round_s if self.rounds else 0.0, next_best=0))
        table, kinds = setting.table, setting.cluster.kinds
        self.engine.set_profiles(
            Profile(job_type, kinds[kind], scale, throughput=float(table.alone[shape, kind]))
            for shape, (job_type, scale) in enumerate(table.shapes)
            for kind in range(len(kinds))
            if table.alone[shape, kind] > 0
        )
        for kind, devices in zip(kinds, setting.cluster.devices, strict=True):
            for first in range(0, devices, NODE_DEVICES):
                name = f"{kind}-{first // NODE_DEVICES:05d}"
                here = range(min(NODE_DEVICES, devices - first))
                self.engine.apply_node(
                    Node(
                        name,
                        devices=tuple(Device(f"{name}/{i}", i, kind, "GPU") for i in here),
                        telemetry_exempt=True,
                    )
                )
        self._jobs: dict[str, Job] = {}
        self._finish: dict[int, float] = {}
        self._now = 0.0
        self.stops = 0

    def arrived(self, job: int, shape: int, scale: int, now: float) -> None:
        table, kinds = self.setting.table, self.setting.cluster.kinds
        job_id = f"{job:06d}"
        self._jobs[job_id] = Job(
            job_id,
            replicas=scale,
            devices=1,
            # A kind without a throughput cannot run the job; to the engine it would be one that nobody measured.
            models=tuple(kind for at, kind in enumerate(kinds) if table.alone[shape, at] > 0),
            workload=table.shapes[shape][0],
            preemptible=True,
            checkpoint_seconds=self.setting.round_s,
            submitted_at=now,
        )
        self.engine.submit(self._jobs[job_id])

    def ran(self, job: int, kind: int, partner: int, seconds: float) -> None:
        self._finish[job] = self._now + seconds

    def completed(self, job: int, shape: int, steps: float) -> None:
        job_id = f"{job:06d}"
        self.engine.release(job_id, self._finish[job])
        del self._jobs[job_id]

    def plan(self, view: View) -> Plan:
        self._now = view.now
        self._finish.clear()
        self._cycle_to_rest(view.now)
        plan = Plan.empty(view.jobs.size)
        for at, job in enumerate(view.jobs.tolist()):
            claim = self.engine.holds(f"{job:06d}")
            if claim is not None:
                plan.kind[at] = self.setting.cluster.kinds.index(claim.members[0].devices[0].model)
        return plan

    def _cycle_to_rest(self, now: float) -> None:
        for _ in range(MOST_CYCLES):
            result = self.engine.cycle(now)
            for stopped in result.preemptions:
                self.stops += 1
                self.engine.release(stopped.job_id, now)
                self._submit_again(stopped.job_id)
            for decision in result.decisions:
                self.engine.started(decision.job_id, decision.attempt, now)
            if not result.decisions and not result.preemptions:
                return
        raise RuntimeError(f"the engine decided {MOST_CYCLES} times at {now} without coming to rest")

    def _submit_again(self, job_id: str) -> None:
        job = self._jobs[job_id]
        self._jobs[job_id] = replace(job, attempt=job.attempt + 1)
        self.engine.submit(self._jobs[job_id])


class EngineWithoutRounds(RunningEngine):
    """A job keeps its place until it ends."""

    rounds = False
