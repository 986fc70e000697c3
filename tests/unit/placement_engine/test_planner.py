"""What a planner refuses to plan by."""

from typing import cast

import pytest

from berth.postgres import Database
from placement_engine.domain.policy import Policy
from placement_engine.planner import Planner
from placement_engine.settings import EngineSettings
from placement_engine.world import World


def test_a_policy_whose_decisions_it_would_drop() -> None:
    """The core would hold changes of gangs that neither the ledger nor the binder is told of."""
    with pytest.raises(ValueError, match="resize_gangs must be off"):
        Planner(
            "default", settings=EngineSettings(), policy=Policy(resize_gangs=True), database=cast(Database, None),
            world=World(), name="", published=lambda: None,
        )  # fmt: skip
