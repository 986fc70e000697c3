"""What the profiles say of cost, time, latency or energy, relative to the fleet's best accelerator."""

from placement_engine.domain.columns import Bools, Floats, View
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask


class Objective:
    name = "Objective"

    def weight(self, weights: Weights) -> float:
        return weights.objective

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        return ask.objective.take(view.model)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        goal = ask.shape.objective.value
        if not ask.objective_known[model]:
            return f"{goal} unknown here: neutral"
        return f"{value:.0%} of the best {goal}"
