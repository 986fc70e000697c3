"""Telemetry too old to trust: the node takes no new work. What runs there is left alone."""

import numpy as np

from placement_engine.domain.columns import SILENT, TIER, TIERS, UNHEARD, UNSCHEDULABLE, Bools, View
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.plugins import ByTier, Description
from placement_engine.domain.policy import Policy, UnknownPolicy
from placement_engine.domain.shapes import Ask


class Staleness(ByTier):
    name = "Staleness"
    code = "TELEMETRY_STALE"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._refuses_unheard = policy.unknown_telemetry is UnknownPolicy.REFUSE

    def tiers(self) -> Bools:
        tier = np.arange(TIERS)
        return tier < UNSCHEDULABLE if self._refuses_unheard else tier != UNSCHEDULABLE

    def passes(self, view: View, ask: Ask) -> Bools:
        return self.tiers().take(view.rows(TIER).astype(np.intp))

    def describe(self, view: View, ask: Ask) -> Description:
        never = int((view.rows(TIER) == UNHEARD).sum())
        limit = self._policy.unschedulable_seconds
        return (
            f"telemetry older than {limit:g} s" + (f", {never} never heard of" if never else ""),
            {"limit_seconds": limit, "never_heard": float(never)},
        )


class DeviceStaleness(Flag):
    """The same for a device that its node no longer speaks of."""

    name = "Staleness"
    code = "DEVICE_TELEMETRY_STALE"
    bit = SILENT

    def describe(self, view: View, ask: Ask) -> Description:
        return "the node's telemetry no longer names these devices", {}
