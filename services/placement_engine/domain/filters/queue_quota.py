"""Accelerators of which the job's queue may take no more now: its own quota and what it may borrow are used."""

import numpy as np

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import ByModel, Description
from placement_engine.domain.shapes import Ask


class QueueQuota(ByModel):
    name = "QueueQuota"
    code = "QUEUE_QUOTA_EXCEEDED"

    def models(self, ask: Ask) -> Bools:
        return np.ones_like(ask.allowed) if ask.within_quota is None else ask.within_quota

    def describe(self, view: View, ask: Ask) -> Description:
        return "the queue's quotas leave no room on these accelerators", {}
