"""The policies by name."""

from placement_engine.simulation.openb.policies.base import Policy
from placement_engine.simulation.openb.policies.berth import Berth, BerthExpected, BerthOnline, BerthPower
from placement_engine.simulation.openb.policies.bestfit import BestFit
from placement_engine.simulation.openb.policies.dotprod import DotProduct
from placement_engine.simulation.openb.policies.engine import RunningEngine, ThriftyEngine
from placement_engine.simulation.openb.policies.fgd import Fgd
from placement_engine.simulation.openb.policies.packing import Packing
from placement_engine.simulation.openb.policies.pwr import Pwr
from placement_engine.simulation.openb.policies.random import Random

__all__ = ["POLICIES", "Policy"]

POLICIES: dict[str, type[Policy]] = {
    "berth": Berth,
    "berth-expected": BerthExpected,
    "berth-online": BerthOnline,
    "berth-power": BerthPower,
    "engine": RunningEngine,
    "engine-power": ThriftyEngine,
    "fgd": Fgd,
    "bestfit": BestFit,
    "dotprod": DotProduct,
    "packing": Packing,
    "random": Random,
    "pwr": Pwr,
}
