"""The policies by name."""

from placement_engine.simulation.gavel.policies.allox import AlloX
from placement_engine.simulation.gavel.policies.base import Plan, Policy, Setting, View
from placement_engine.simulation.gavel.policies.berth import Berth, BerthKnownDurations
from placement_engine.simulation.gavel.policies.engine import EngineWithoutRounds, RunningEngine
from placement_engine.simulation.gavel.policies.fifo import Fifo
from placement_engine.simulation.gavel.policies.las import LeastAttainedService
from placement_engine.simulation.gavel.policies.max_min_fairness import MaxMinFairness

__all__ = ["POLICIES", "Plan", "Policy", "Setting", "View"]

POLICIES: dict[str, type[Policy]] = {
    "berth": Berth,
    "berth-known-durations": BerthKnownDurations,
    "engine": RunningEngine,
    "engine-without-rounds": EngineWithoutRounds,
    "max_min_fairness": MaxMinFairness,
    "las": LeastAttainedService,
    "allox": AlloX,
    "fifo": Fifo,
}
