"""The scores, all 0..1; their weights are the policy's. Topology is scored over a whole gang, in gangs.py."""

from placement_engine.domain.hosting import Hosting
from placement_engine.domain.plugins import Score
from placement_engine.domain.policy import Policy
from placement_engine.domain.scores.fragmentation import Fragmentation
from placement_engine.domain.scores.freshness import Freshness
from placement_engine.domain.scores.heat import Heat
from placement_engine.domain.scores.objective import Objective
from placement_engine.domain.scores.power import Power


def scores(policy: Policy, hosting: Hosting) -> tuple[Score, ...]:
    return (Objective(), Fragmentation(hosting), Heat(), Power(), Freshness(policy))
