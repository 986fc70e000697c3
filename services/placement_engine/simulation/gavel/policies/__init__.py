from placement_engine.simulation.gavel.policies.base import Policy
from placement_engine.simulation.gavel.policies.max_min_fairness import MaxMinFairness
from placement_engine.simulation.gavel.policies.las import LeastAttainedService
from placement_engine.simulation.gavel.policies.allox import AlloX
from placement_engine.simulation.gavel.policies.berth import Berth
POLICIES = {"berth":Berth,"max_min_fairness": MaxMinFairness, "las":LeastAttainedService, "allox":AlloX}
