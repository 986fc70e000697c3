"""How old the node's telemetry is: decisions on old facts are worse."""

import numpy as np

from placement_engine.domain.columns import TIER, Bools, Floats, View
from placement_engine.domain.plugins import Form, Formed, OfSteps
from placement_engine.domain.policy import Policy, UnknownPolicy, Weights
from placement_engine.domain.shapes import Ask


class Freshness(Formed):
    name = "Freshness"

    def __init__(self, policy: Policy) -> None:
        unheard = 0.25 if policy.unknown_telemetry is UnknownPolicy.PENALISE else 1.0
        self._by_tier: Floats = np.array([1.0, 0.6, 0.3, 0.0, unheard])

    def weight(self, weights: Weights) -> float:
        return weights.freshness

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        return self._by_tier.take(view.rows(TIER).astype(np.intp))

    def form(self, ask: Ask) -> Form:
        return OfSteps(TIER, self._by_tier)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        return "telemetry is fresh" if value >= 1 else "telemetry is old or unknown"
