"""Accelerators of which the job's queue may take no more now: its own quota and what it may borrow are used."""

import numpy as np

from placement_engine.domain.columns import Bools, View
from placement_engine.domain.plugins import Description
from placement_engine.domain.shapes import Ask


class QueueQuota:
    name = "QueueQuota"
    code = "QUEUE_QUOTA_EXCEEDED"

    def passes(self, view: View, ask: Ask) -> Bools:
        if ask.within_quota is None:
            return np.ones(view.model.shape[0], dtype=np.bool_)
        return ask.within_quota.take(view.model)

    def describe(self, view: View, ask: Ask) -> Description:
        return "the queue's quotas leave no room on these accelerators", {}
