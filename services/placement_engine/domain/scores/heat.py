"""Heat: a column that the fleet keeps, 0..1."""

from placement_engine.domain.columns import HEAT, Bools, Floats, View
from placement_engine.domain.plugins import Form, Formed, OfColumn
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask


class Heat(Formed):
    name = "Heat"

    def weight(self, weights: Weights) -> float:
        return weights.heat

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        return view.rows(HEAT)

    def form(self, ask: Ask) -> Form:
        return OfColumn(HEAT)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        return "cooler devices first"
