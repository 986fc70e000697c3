"""What a policy is told and what it answers: one plan a round."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from placement_engine.simulation.gavel.trace import Cluster, Floats, Ints, Table

__all__ = ["Plan", "Policy", "Setting", "View"]

WAITS = -1
ALONE = -1


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same in a replay. `round_s`: seconds. `share`: two jobs may share the devices of one."""

    table: Table
    cluster: Cluster
    round_s: float
    share: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The unfinished jobs at the start of a round, in order of their numbers; every array has one entry a job.

    `done`: steps so far. `now`, `arrival`: seconds. `remaining`: steps to go; empty for a policy that does not
    declare that it knows durations.
    """

    now: float
    jobs: Ints
    shape: Ints
    scale: Ints
    arrival: Floats
    done: Floats
    remaining: Floats


@dataclass(frozen=True, slots=True)
class Plan:
    """For each job of the view the index of its kind, -1: it waits; and the position in the view of the job that
    shares its devices, -1: none."""

    kind: Ints
    partner: Ints

    @classmethod
    def empty(cls, jobs: int) -> "Plan":
        return cls(np.full(jobs, WAITS, dtype=np.int64), np.full(jobs, ALONE, dtype=np.int64))


class Policy(ABC):
    """One instance a replay. Deterministic: what it draws, it draws from a seed of its own."""

    knows_durations: ClassVar[bool] = False
    shares: ClassVar[bool] = False  # can pair jobs on one device
    multi: ClassVar[bool] = True  # takes jobs of several devices

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @abstractmethod
    def plan(self, view: View) -> Plan:
        """Who runs where in the round that starts now."""

    def arrived(self, job: int, shape: int, scale: int, now: float) -> None:  # noqa: B027
        """The job is in the view from the next plan on."""

    def ran(self, job: int, kind: int, partner: int, seconds: float) -> None:  # noqa: B027
        """The job ran so long in the round; `partner`: the number of the job that shared its devices, or -1.
        Of a pair only the job of the smaller number is told, with the longer time."""

    def completed(self, job: int, shape: int, steps: float) -> None:  # noqa: B027
        """The job has ended after so many steps."""
