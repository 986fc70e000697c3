"""What the next hour of a job is worth, learnt from jobs that have ended: no duration of a running job is known.

Work is counted in seconds at full speed, that is, on the fastest kind for the job's shape (a workload with a number of
devices), so that progress on a slow kind counts for less. Two things are learnt:

- the index of Gittins (Gittins, Glazebrook, Weber 2011, section 3): for a job of attained work `a` the best ratio, over
  all stretches d, of the chance to end within d more to the work spent on that. It favours jobs that are likely to
  end soon and falls as a heavy-tailed job grows old;
- the scarcity of a shape: how much of the fleet's binding capacity one second of its work takes, from the linear
  program that serves the load with the least busy fleet; a shape that only scarce kinds run well is worth more
  there (the workload of Harrison and Lopez, Queueing Systems 1999).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

__all__ = ["IndexWeights", "ServiceIndex", "gittins", "scarcity"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The distribution is kept as counts between these bounds, in seconds: 48 steps to a factor of ten.
BOUNDS = np.logspace(1, 8, 7 * 48 + 1)
LEAST_EVENTS = 20
SHORTEST_S = 1800.0  # jobs that are nearer to their end than this are all as urgent
LEAST_SCARCITY = 0.01  # work that only kinds in abundance need is still worth doing
PRIOR_JOBS = 4.0  # how many jobs of the average size a shape is believed to have shown before any has
MOST_ENDED = 20_000.0  # beyond so many ended jobs all counts are halved: what was long ago counts ever less


@dataclass(frozen=True, slots=True)
class IndexWeights:
    """How the parts make the worth of a second of a job's work; each part is 1 or so for an average job.

    worth = (scarcity ** `scarce` + `young` x mean size x Gittins index) x (1 + `late` x delay / (work + `slack_s`)),
    where delay is the time since arrival that was not work. The last factor ages a job: it has no bound.
    """

    scarce: float = 0.5
    young: float = 0.15
    late: float = 0.3
    slack_s: float = 18_000.0


class ServiceIndex:
    """Learns from arrivals, service and completions; says what a second of each job's work is worth.

    speed: of each shape on each kind as a share of its fastest, shape (shapes, kinds). scale: devices of each shape.
    devices: of each kind. Nothing is drawn and no clock is read: equal calls give equal answers.
    """

    def __init__(self, speed: Floats, scale: Ints, devices: Ints, weights: IndexWeights | None = None) -> None:
        self._speed, self._scale, self._devices = speed, scale, devices.astype(np.float64)
        self._weights = weights or IndexWeights()
        self._arrivals = np.zeros(scale.size)
        self._ended = np.zeros(scale.size)
        self._served = np.zeros(scale.size)
        self._sizes = np.zeros(BOUNDS.size)
        self._scarcity: Floats = scale.astype(np.float64)
        self._index = np.zeros(BOUNDS.size)
        self._mean = 0.0
        self._events = self._due = 0

    def fit(self, speed: Floats, scale: Ints, devices: Ints, origin: Ints) -> None:
        """Takes another table; what was learnt stays. origin: where each of its shapes was in the table so far, -1:
        it is new. Kinds may be other ones."""
        same = np.array_equal(origin, np.arange(self._scale.size)) and np.array_equal(speed, self._speed)
        if same and np.array_equal(devices, self._devices):
            return
        known = origin >= 0
        for name in ("_arrivals", "_ended", "_served"):
            counts = np.zeros(scale.size)
            counts[known] = getattr(self, name)[origin[known]]
            setattr(self, name, counts)
        found = scale.astype(np.float64)
        found[known] = self._scarcity[origin[known]]
        self._scarcity = found
        self._speed, self._scale, self._devices = speed, scale, devices.astype(np.float64)
        self._due = min(self._due, self._events)

    def arrived(self, shape: int) -> None:
        self._arrivals[shape] += 1
        self._events += 1

    def arrivals(self) -> Floats:
        """How many jobs of each shape have come, of late."""
        return self._arrivals.copy()

    def served(self, shapes: Ints, work: Floats) -> None:
        """Work, in seconds at full speed, that jobs of these shapes received."""
        np.add.at(self._served, shapes, work)

    def ended(self, shape: int, work: float) -> None:
        """A job has ended after so much work."""
        self._ended[shape] += 1
        self._sizes[min(int(np.searchsorted(BOUNDS, work)), BOUNDS.size - 1)] += 1
        self._events += 1

    def worth(self, shapes: Ints, work: Floats, elapsed: Floats, remaining: Floats | None = None) -> Floats:
        """Of one second of work of each job at full speed. `work` received and `elapsed` since arrival, in seconds.

        `remaining`: work to go, where it is known; it then stands in for what the index would expect.
        """
        if self._events >= self._due:
            self._learn()
        weights = self._weights
        step = np.minimum(np.searchsorted(BOUNDS, work, side="right"), BOUNDS.size - 1)
        soon = self._index[step] if remaining is None else self._mean / (remaining + SHORTEST_S)
        base = np.maximum(self._scarcity[shapes], LEAST_SCARCITY) ** weights.scarce + weights.young * soon
        delay = np.maximum(elapsed - work, 0.0)
        worth: Floats = base * (1.0 + weights.late * delay / (work + weights.slack_s))
        return worth

    def _learn(self) -> None:
        # Anew each time the history has grown by a tenth, and so ever more seldom.
        self._due = self._events + max(LEAST_EVENTS, self._events // 10)
        if self._ended.sum() > MOST_ENDED:
            for counts in (self._arrivals, self._ended, self._served, self._sizes):
                counts *= 0.5
        total, ended = self._sizes.sum(), self._ended.sum()
        if not (total > 0 and ended > 0):
            return
        # Counts were halved since a job was told of, perhaps, that now takes back what it lost: not beyond nothing.
        served = np.maximum(self._served, 0.0)
        # Work over completions counts what running jobs have received: long jobs are not forgotten for ending late.
        mean = served.sum() / ended
        sizes = (served + PRIOR_JOBS * mean) / (self._ended + PRIOR_JOBS)
        seen = (self._arrivals > 0) & (self._speed > 0).any(axis=1)  # the program has no answer for what runs nowhere
        found = scarcity(self._speed[seen], self._scale[seen], (self._arrivals * sizes)[seen], self._devices)
        if found is not None:
            self._scarcity = self._scale.astype(np.float64)
            self._scarcity[seen] = found
        self._mean, self._index = float(mean), mean * gittins(self._sizes / total, BOUNDS)


def gittins(ends: Floats, work: Floats) -> Floats:
    """The index at the lower bound of each step of a distribution, in 1/seconds.

    ends: how many jobs ended in each step, shape (steps,). work: the work at which each step ends, ascending.
    Computed from the right as the upper concave envelope of (work spent, chance to end) seen from each step.
    """
    steps = ends.size
    alive = np.concatenate([np.cumsum(ends[::-1])[::-1], [0.0]])  # jobs whose size is at least the step's start
    width = np.diff(work, prepend=0.0)
    # Jobs that end within a step spend half of it.
    spent = np.concatenate([[0.0], np.cumsum(width * (alive[:-1] + alive[1:]) / 2)])
    ended = alive[0] - alive
    index = np.zeros(steps)
    hull: list[int] = []
    for at in range(steps, -1, -1):
        while len(hull) > 1 and _slope(spent, ended, at, hull[-1]) <= _slope(spent, ended, hull[-1], hull[-2]):
            hull.pop()
        if at < steps and hull:
            index[at] = _slope(spent, ended, at, hull[-1])
        hull.append(at)
    return index


def _slope(spent: Floats, ended: Floats, low: int, high: int) -> float:
    length = spent[high] - spent[low]
    return float((ended[high] - ended[low]) / length) if length > 0 else 0.0


def scarcity(speed: Floats, scale: Ints, load: Floats, devices: Floats) -> Floats | None:
    """Fleet taken by a second of work of each shape, where 1 is one average device; None: the solver found no answer.

    speed: of each shape on each kind as a share of its fastest, shape (shapes, kinds). scale: devices of a job.
    load: work that arrives in a second. Dual of: least busy share of the fleet that serves the load.
    """
    shapes, kinds = speed.shape
    size = shapes * kinds
    served = np.zeros((shapes, size + 1))
    busy = np.zeros((kinds, size + 1))
    for shape in range(shapes):
        served[shape, shape * kinds : (shape + 1) * kinds] = speed[shape]
    for kind in range(kinds):
        busy[kind, kind:size:kinds] = scale
        busy[kind, size] = -devices[kind]
    cost = np.zeros(size + 1)
    cost[size] = 1.0
    solved = linprog(cost, A_ub=busy, b_ub=np.zeros(kinds), A_eq=served, b_eq=load, method="highs")
    if solved.status != 0:
        return None
    dual: Floats = np.maximum(solved.eqlin.marginals, 0.0) * devices.sum()
    return dual
