"""Power: a column that the fleet keeps, 0..1."""

from placement_engine.domain.columns import POWER, Bools, Floats, View
from placement_engine.domain.plugins import Form, Formed, OfColumn
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask


class Power(Formed):
    name = "Power"

    def weight(self, weights: Weights) -> float:
        return weights.power

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        return view.rows(POWER)

    def form(self, ask: Ask) -> Form:
        return OfColumn(POWER)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        return "more of the power budget left is higher"
