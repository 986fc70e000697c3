"""`python -m tests.simulation.show SEED`: one history, step by step, to where a rule breaks."""

import sys

from tests.simulation.history import History


def main(seed: int) -> None:
    history = History(seed)
    for node in history.oracle.nodes.values():
        print(f"{node.name}: {len(node.devices)} x {node.devices[0].model}, {dict(node.topology)}")
    for queue in history.oracle.queues.values():
        print(queue)
    for _ in range(14):
        seen, waiting = len(history.results), set(history.oracle.waiting)
        try:
            history.step()
        finally:
            print(history.steps[-1])
            for job_id in sorted(set(history.oracle.waiting) - waiting):
                print(f"    comes   {history.oracle.waiting[job_id]}")
            for result in history.results[seen:]:
                for decision in result.decisions:
                    where = [(m.group, m.node, [(d.device_id, d.milli) for d in m.devices]) for m in decision.members]
                    print(f"    placed  {decision.job_id}.{decision.attempt} on {where}")
                for preemption in result.preemptions:
                    print(f"    stopped {preemption}")
    history.the_end()


if __name__ == "__main__":
    main(int(sys.argv[1]))
