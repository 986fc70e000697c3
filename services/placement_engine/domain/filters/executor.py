"""The node must run what starts the job: a process, Kubernetes, ..."""

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import ByExecutor, Description, Selective
from placement_engine.domain.shapes import Ask


class Executor(Selective, ByExecutor):
    name = "Executor"
    code = "EXECUTOR_MISSING"

    def concerns(self, ask: Ask) -> bool:
        return ask.executor_bit != 0

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.executor_bit == 0:
            return view.executors >= 0
        if ask.executor_bit < 0:
            return view.executors < 0
        fits: Bools = (view.executors & ask.executor_bit) != 0
        return fits

    def describe(self, view: View, ask: Ask) -> Description:
        return f"executor {ask.shape.executor!r} is not on these nodes", {}
