"""`python -m tests.simulation.show SEED`: one history, step by step, to where a rule breaks."""

import sys
from dataclasses import fields

from placement_engine.domain.model import Job
from tests.simulation.history import History


def told(job: Job) -> str:
    """The fields that are not at their defaults."""
    said = {f.name: value for f in fields(job) if (value := getattr(job, f.name)) != f.default}
    return ", ".join(f"{name}={value}" for name, value in said.items())


def main(seed: int) -> None:
    history = History(seed)
    for node in history.oracle.nodes.values():
        print(f"{node.name}: {len(node.devices)} x {node.devices[0].model}, {dict(node.topology)}")
    for queue in history.oracle.queues.values():
        print(queue)
    seen_jobs: set[str] = set()
    for _ in range(14 if history.resizes is None else 28):
        seen = len(history.results)
        try:
            history.step()
        finally:
            print(history.steps[-1])
            known = history.oracle.waiting | {job_id: claim.job for job_id, claim in history.oracle.held.items()}
            for job_id in sorted(set(known) - seen_jobs):
                print(f"    comes   {told(known[job_id])}")
            seen_jobs |= set(known)
            for result in history.results[seen:]:
                for decision in result.decisions:
                    where = [(m.group, m.node, [(d.device_id, d.milli) for d in m.devices]) for m in decision.members]
                    print(f"    placed  {decision.job_id}.{decision.attempt} on {where}")
                for preemption in result.preemptions:
                    print(f"    stopped {preemption}")
                for resize in result.resizes:
                    print(f"    resized {resize}")
    history.the_end()


if __name__ == "__main__":
    main(int(sys.argv[1]))
