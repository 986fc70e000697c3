"""Devices that may serve the job's resource claims: who reads them into the fleet marked them with a trait."""

import numpy as np

from placement_engine.domain.columns import ABSENT, FREE, TRAITS, Bools, View
from placement_engine.domain.plugins import Description, Selective
from placement_engine.domain.shapes import Ask

BY_CLAIM = "resource-claim"
"""A device with this trait is handed out for resource claims alone: only work that asks for traits may have it."""


class Traits(Selective):
    name = "Claim"
    code = "CLAIM_SELECTOR"

    def concerns(self, ask: Ask) -> bool:
        return bool(ask.shape.traits) or len(ask.trait_sets) > 1

    def passes(self, view: View, ask: Ask) -> Bools:
        wanted = frozenset(ask.shape.traits)
        # The sets grow while the ask is remembered: they are looked at anew.
        having = np.fromiter(
            (wanted <= traits and (bool(wanted) or BY_CLAIM not in traits) for traits in ask.trait_sets),
            np.bool_,
            len(ask.trait_sets),
        )
        found: Bools = having.take(view.devices(TRAITS).astype(np.intp))
        return found

    def describe(self, view: View, ask: Ask) -> Description:
        others = float((~self.passes(view, ask) & (view.devices(FREE) > ABSENT)).sum())
        return (
            f"{others:g} devices do not satisfy the resource claims: class, selectors, taints or constraints"
            if ask.shape.traits
            else f"{others:g} devices are handed out for resource claims only: ask with a ResourceClaim",
            {"devices_not_selected": others},
        )
