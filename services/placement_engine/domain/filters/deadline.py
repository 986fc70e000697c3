"""A deadline that a profile says cannot be met on this accelerator, were the job started now."""

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import ByModel, Description
from placement_engine.domain.shapes import Ask


class Deadline(ByModel):
    name = "Deadline"
    code = "DEADLINE_NOT_MET"

    def models(self, ask: Ask) -> Bools:
        return ask.in_time

    def describe(self, view: View, ask: Ask) -> Description:
        return "profiles show that the job would end after its deadline on these accelerators", {}
