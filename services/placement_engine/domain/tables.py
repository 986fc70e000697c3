"""Filter and score, remembered per shape: only rows that changed since are scored again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from placement_engine.domain.asks import expectation, make_ask
from placement_engine.domain.columns import BOUNDED, BOUNDED_DEVICE, Bools, Floats, Ints, View
from placement_engine.domain.compiled import Compiled, compiled
from placement_engine.domain.facts import NodeFacts, RowFacts
from placement_engine.domain.filters import device_filters, row_filters
from placement_engine.domain.filters.flags import Flag, unblocked
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.hosting import Hosting
from placement_engine.domain.model import Candidate, Expectation, Job, ScoreTerm
from placement_engine.domain.plugins import ByModel, Floors, Formed, RowFilter, Selective
from placement_engine.domain.policy import Policy
from placement_engine.domain.scores import scores
from placement_engine.domain.scores.objective import Objective, figure, remarks
from placement_engine.domain.shapes import Ask, Shape

EXCLUDED = -np.inf


@dataclass(frozen=True, slots=True)
class Sieve:
    """What is asked of rows and devices for one ask: filters that cannot say no to it are left out."""

    row_floors: Floats
    """The least of each row column that passes, by model: (models, BOUNDED). A model that some filter excludes for
    itself alone has a floor that nothing reaches."""
    device_floors: Floats
    """The same of each device column: (models, BOUNDED_DEVICE)."""
    rows: tuple[Callable[[View, Ask], Bools], ...]
    """Filters that neither the model nor floors tell of."""
    devices: tuple[Callable[[View, Ask], Bools], ...]
    others: tuple[RowFilter, ...]
    """The row filters whose `passes` are in `rows`."""

    def judge_rows(self, view: View) -> Bools:
        """What the floors say: (k)."""
        passing: Bools = np.logical_and.reduce(view.row[BOUNDED] >= self.row_floors.take(view.model, axis=0).T, axis=0)
        return passing

    def judge_devices(self, view: View) -> Bools:
        """What the floors say: (slots, k)."""
        floors = self.device_floors.take(view.model, axis=0).T
        passing: Bools = np.logical_and.reduce(view.device[BOUNDED_DEVICE] >= floors[:, None], axis=0)
        return passing


class Scored(NamedTuple):
    """Some rows (k) as they were judged."""

    able: Ints
    """Position of those that can take one member now (n)."""
    total: Floats
    """Their weighted sums (n) ..."""
    terms: list[Floats]
    """... and the values of each score (n); none where no row can."""
    usable: Bools
    """Devices of all rows (slots, k)."""


class Pipeline:
    """All filters and scores of a policy, over any rows."""

    def __init__(self, policy: Policy, hosting: Hosting) -> None:
        self.hosting = hosting
        self.row_filters = row_filters(policy)
        self.device_filters = device_filters(policy)
        self.scores = scores(policy, hosting)
        self.objective = [score.name for score in self.scores].index(Objective.name)
        """Position of the objective among the scores."""
        self.weights = tuple(score.weight(policy.weights) for score in self.scores)
        self._values = tuple(zip((score.values for score in self.scores), self.weights, strict=True))

    def sieve(self, ask: Ask) -> Sieve:
        """The filters that could say no to this ask."""
        models = np.ones_like(ask.allowed)
        rest: list[RowFilter] = []
        for plugin in self.row_filters:
            if isinstance(plugin, ByModel) and (mask := plugin.models(ask)) is not None:
                models &= mask
            elif _concerned(plugin, ask):
                rest.append(plugin)
        row_floors, others = _floors(rest, ask, BOUNDED)
        row_floors[~models] = np.inf
        judging = [p for p in self.device_filters if not isinstance(p, Flag) and _concerned(p, ask)]
        device_floors, other_devices = _floors(judging, ask, BOUNDED_DEVICE)
        rows, devices = ([plugin.passes for plugin in of] for of in (others, other_devices))
        return Sieve(row_floors, device_floors, tuple(rows), tuple(devices), tuple(others))

    def compiled(
        self, ask: Ask, sieve: Sieve, written: tuple[Floats, npt.NDArray[np.float32], Bools]
    ) -> Compiled | None:
        """`score` in C, which writes the table's scores, terms and usable devices by rows. Valid as long as the
        ask and the hosting value are. None: there is none for this ask."""
        if sieve.devices:
            return None
        forms = [score.form(ask) if isinstance(score, Formed) else None for score in self.scores]
        floors = sieve.row_floors, sieve.device_floors
        return compiled(ask, sieve.others, floors, forms, self.weights, self.hosting.value, written, EXCLUDED)

    def feasible(self, view: View, ask: Ask, sieve: Sieve | None = None) -> tuple[Bools, Bools]:
        """Rows that can take one member now (k), and their usable devices (slots, k)."""
        sieve = sieve or self.sieve(ask)
        rows = sieve.judge_rows(view)
        for passes in sieve.rows:
            rows &= passes(view, ask)
        if not ask.shape.needs_devices:
            return rows, np.zeros(view.device.shape[1:], dtype=np.bool_)
        usable = sieve.judge_devices(view)
        usable &= unblocked(view, ask)
        for passes in sieve.devices:
            usable &= passes(view, ask)
        rows &= enough(usable, ask.shape.slots)
        return rows, usable

    def score(self, view: View, ask: Ask, sieve: Sieve | None = None) -> Scored:
        rows, usable = self.feasible(view, ask, sieve)
        able = rows.nonzero()[0]
        if not able.shape[0]:
            return Scored(able, np.zeros(0), [], usable)
        within = usable
        if able.shape[0] < rows.shape[0]:  # on a busy fleet most rows that changed are full: they have no scores
            view, within = view.only(able), usable.take(able, axis=1)
        total, terms = np.zeros(able.shape[0]), []
        for values, weight in self._values:
            term = values(view, within, ask)
            terms.append(term)
            total += weight * term
        return Scored(able, total, terms, usable)


def enough(usable: Bools, slots: int) -> Bools:
    """Rows with so many usable devices, of (slots, k)."""
    if slots == 1:
        some: Bools = np.logical_or.reduce(usable, axis=0)
        return some
    counts = np.uint8 if usable.shape[0] < 256 else np.intp
    many: Bools = np.add.reduce(usable.view(np.uint8), axis=0, dtype=counts) >= slots
    return many


def _floors(filters: Sequence[RowFilter], ask: Ask, bounded: slice) -> tuple[Floats, list[RowFilter]]:
    """The highest floor of each column, by model, and the filters without one."""
    floors = np.full((ask.allowed.shape[0], bounded.stop - bounded.start), -np.inf)
    others = []
    for plugin in filters:
        told = plugin.floors(ask) if isinstance(plugin, Floors) else None
        if told is None:
            others.append(plugin)
            continue
        for column, least in told.items():
            place = floors[:, column - bounded.start]
            np.maximum(place, least, out=place)
    return floors, others


def _concerned(plugin: RowFilter, ask: Ask) -> bool:
    return not isinstance(plugin, Selective) or plugin.concerns(ask)


class Table:
    """Scores of one shape over all rows, as of `version` of the columns."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.version = -1
        self._mark = -1
        """Where the log of changes was then."""
        self._sieve: Sieve | None = None
        self._compiled: Compiled | None = None
        self._compiled_for: Bools | None = None
        self.score: Floats = np.zeros(0)
        # By rows: what belongs to a row lies together, and few rows are written at a time.
        self._terms: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self._usable: Bools = np.zeros((0, 0), dtype=np.bool_)
        self._told: dict[tuple[object, ...], ScoreTerm] = {}
        self._told_together: dict[tuple[object, ...], tuple[ScoreTerm, ...]] = {}
        self._candidates: dict[int, Candidate] = {}
        self._remarks: dict[int, tuple[str, ...]] = {}
        self._expected: dict[tuple[int, int, float | None], Expectation] = {}

    @property
    def usable(self) -> Bools:
        """Devices that passed every filter: (slots, rows)."""
        return self._usable.T

    def refresh(self, fleet: Fleet, pipeline: Pipeline) -> None:
        columns = fleet.columns
        if self.version == columns.clock:
            return
        n, since, self._mark = columns.rows, self._mark, columns.changes()
        if self.version < 0 or self._usable.shape != (n, columns.device.shape[1]):
            self._score_all(fleet, pipeline, n)
        else:
            changed = columns.changed_since(since, self.version)
            if 2 * changed.shape[0] > n:
                self._score_all(fleet, pipeline, n)
            elif changed.shape[0]:
                self._score_some(fleet, pipeline, changed)
        self.version = columns.clock

    def _score_all(self, fleet: Fleet, pipeline: Pipeline, n: int) -> None:
        self._sieve = pipeline.sieve(self.ask)
        able, total, terms, usable = pipeline.score(fleet.columns.view(), self.ask, self._sieve)
        self._usable = np.ascontiguousarray(usable.T)
        self.score = np.full(n, EXCLUDED)
        self._terms = np.zeros((n, len(pipeline.scores)), dtype=np.float32)
        self._put(able, total, terms)

    def compiled(self, pipeline: Pipeline) -> Compiled | None:
        """The pass in C over some rows, on the arrays of the last pass over all: made when it is first asked for."""
        if self._compiled_for is not self._usable and self._sieve is not None:
            self._compiled = pipeline.compiled(self.ask, self._sieve, (self.score, self._terms, self._usable))
            self._compiled_for = self._usable
        return self._compiled

    def _score_some(self, fleet: Fleet, pipeline: Pipeline, rows: Ints) -> None:
        compiled = self.compiled(pipeline)
        if compiled is not None:
            compiled.score(fleet.columns, rows)
            return
        able, total, terms, usable = pipeline.score(fleet.columns.view(rows), self.ask, self._sieve)
        self._usable[rows] = usable.T
        self.score[rows] = EXCLUDED
        self._put(rows.take(able), total, terms)

    def _put(self, rows: Ints, total: Floats, terms: list[Floats]) -> None:
        """Nobody reads the terms of rows that cannot."""
        if rows.shape[0]:
            self.score[rows] = total
            packed = np.empty((rows.shape[0], len(terms)), dtype=np.float32)
            for position, term in enumerate(terms):
                packed[:, position] = term
            self._terms[rows] = packed

    def candidate(
        self, row: int, score: float, of: tuple[NodeFacts, RowFacts], pipeline: Pipeline, fleet: Fleet, job: Job
    ) -> Candidate:
        """The row for a decision. Rows that did not change are the same object again: mostly the next best are."""
        node, model = of[0].node.name, of[1].model
        terms, known = self.terms_of(row, model, pipeline, fleet, job), self._candidates.get(row)
        if known is None or known.terms is not terms or known.score != score or known.node != node:
            if len(self._candidates) > 1024:
                self._candidates.clear()
            shape = self.ask.shape
            name = fleet.models.names[model] if shape.needs_devices else ""
            known = self._candidates[row] = Candidate(node, name, score, terms, shape.whole)
        return known

    def terms_of(self, row: int, model: int, pipeline: Pipeline, fleet: Fleet, job: Job) -> tuple[ScoreTerm, ...]:
        """The row's terms, for a decision. Equal terms are one object: values come in steps."""
        values = self._terms[row]
        together = (values.tobytes(), model, job.replicas, job.expected_duration_seconds)
        known = self._told_together.get(together)
        if known is None:
            if len(self._told_together) > 1024:
                self._told_together.clear()
            known = self._told_together[together] = self._tell(values.tolist(), model, pipeline, fleet, job)
        return known

    def _tell(
        self, values: list[float], model: int, pipeline: Pipeline, fleet: Fleet, job: Job
    ) -> tuple[ScoreTerm, ...]:
        found = []
        for position, value in enumerate(values):
            key: tuple[object, ...] = (position, value, model)
            if position == pipeline.objective:
                # Its detail tells a figure that is the job's own.
                key = (position, value, model, job.replicas, job.expected_duration_seconds)
            term = self._told.get(key)
            if term is None:
                if len(self._told) > 1024:
                    self._told.clear()
                score = pipeline.scores[position]
                detail = score.detail(value, self.ask, model)
                if position == pipeline.objective and self.ask.shape.needs_devices:
                    detail = figure(self.ask, self.expectation(fleet, job, model)) + detail
                term = self._told[key] = ScoreTerm(score.name, value, pipeline.weights[position], detail)
            found.append(term)
        return tuple(found)

    def remarks(self, fleet: Fleet, model: int) -> tuple[str, ...]:
        """What the summary of a decision says besides: the choice of count, and that no profile spoke."""
        known = self._remarks.get(model)
        if known is None:
            known = self._remarks[model] = remarks(self.ask, model, fleet.models.names)
        return known

    def expectation(self, fleet: Fleet, job: Job, model: int) -> Expectation:
        key = (model, job.replicas, job.expected_duration_seconds)
        known = self._expected.get(key)
        if known is None:
            if len(self._expected) > 256:
                self._expected.clear()
            known = self._expected[key] = expectation(fleet, self.ask, job, model)
        return known

    def size_bytes(self) -> int:
        return self.score.nbytes + self._terms.nbytes + self._usable.nbytes + 2048


class Tables:
    """The tables of recently used shapes, within the policy's memory."""

    def __init__(self, fleet: Fleet, policy: Policy, pipeline: Pipeline) -> None:
        self._fleet = fleet
        self._pipeline = pipeline
        self._limit = policy.cache_bytes
        self._tables: OrderedDict[Shape, Table] = OrderedDict()
        self._counts: tuple[int, ...] = ()

    def forget(self, workload: str | None = None) -> None:
        """Profiles or the catalogue changed: what a shape (of this workload) means may have changed."""
        if workload is None:
            self._tables.clear()
        for shape in [shape for shape in self._tables if shape.workload == workload]:
            del self._tables[shape]

    def ask(self, shape: Shape) -> Ask:
        """What the shape asks for on each model; where nothing else is wanted of its table, that is not brought up to
        date."""
        self._forget_what_is_old()
        table = self._tables.get(shape)
        return self.get(shape).ask if table is None else table.ask

    def _forget_what_is_old(self) -> None:
        hosting, models = self._pipeline.hosting, self._fleet.models
        hosting.prepare()
        reach, marked = self._fleet.selection.version, len(models.traits) > 1
        counts = (*models.counts, *models.sizes, -self._fleet.executors_known(), -hosting.version, -reach, -marked)
        if counts != self._counts:
            # The best accelerator and what a share is are relative to what the fleet has, packing to the mix of work
            # that was seen; which nodes constraints allow, to labels and taints. Once a device has a trait, traits
            # concern every ask.
            self._tables.clear()
            self._counts = counts

    def get(self, shape: Shape) -> Table:
        """The shape's table, up to date."""
        self._forget_what_is_old()
        table = self._tables.get(shape)
        if table is None:
            table = Table(make_ask(self._fleet, shape))
            self._tables[shape] = table
            table.refresh(self._fleet, self._pipeline)
            while len(self._tables) > 8 and len(self._tables) * table.size_bytes() > self._limit:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(shape)
            table.refresh(self._fleet, self._pipeline)
        return table
