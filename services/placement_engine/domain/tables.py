"""Filter and score, remembered per shape: only rows that changed since are scored again."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from placement_engine.domain.asks import expectation, make_ask
from placement_engine.domain.columns import Bools, Floats, Ints, View
from placement_engine.domain.filters import device_filters, row_filters
from placement_engine.domain.filters.flags import Flag, unblocked
from placement_engine.domain.filters.sharing import Sharing
from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import Expectation, Job, ScoreTerm
from placement_engine.domain.policy import Policy
from placement_engine.domain.scores import scores
from placement_engine.domain.shapes import Ask, Shape

EXCLUDED = -np.inf


class Pipeline:
    """All filters and scores of a policy, over any rows."""

    def __init__(self, policy: Policy) -> None:
        self.row_filters = row_filters(policy)
        self.device_filters = device_filters(policy)
        self.scores = scores(policy)
        self.weights = tuple(score.weight(policy.weights) for score in self.scores)
        self._passes_rows = tuple(plugin.passes for plugin in self.row_filters)
        self._passes_devices = tuple(
            plugin.passes for plugin in self.device_filters if not isinstance(plugin, Flag | Sharing)
        )
        self._passes_sharing = tuple(plugin.passes for plugin in self.device_filters if isinstance(plugin, Sharing))
        self._values = tuple(zip((score.values for score in self.scores), self.weights, strict=True))

    def usable(self, view: View, ask: Ask) -> Bools:
        """Devices that pass every device filter: (slots, k)."""
        result = unblocked(view, ask)
        for passes in self._passes_devices:
            result &= passes(view, ask)
        for passes in self._passes_sharing if ask.shape.by_model else ():
            result &= passes(view, ask)
        return result

    def feasible(self, view: View, ask: Ask) -> tuple[Bools, Bools]:
        """Rows that can take one member now (k), and their usable devices (slots, k)."""
        first, *others = self._passes_rows
        rows = first(view, ask)
        for passes in others:
            rows = rows & passes(view, ask)
        if not ask.shape.needs_devices:
            return rows, np.zeros(view.device.shape[1:], dtype=np.bool_)
        usable = self.usable(view, ask)
        return rows & (np.add.reduce(usable, axis=0, dtype=np.intp) >= ask.shape.slots), usable

    def score(self, view: View, ask: Ask) -> tuple[Floats, list[Floats], Bools]:
        """Weighted sums (k), -inf for rows that cannot; the values of each score; usable devices (slots, k)."""
        rows, usable = self.feasible(view, ask)
        terms = []
        total = np.zeros(view.model.shape[0])
        for values, weight in self._values:
            term = values(view, usable, ask)
            terms.append(term)
            total += weight * term
        total[~rows] = EXCLUDED
        return total, terms, usable


class Table:
    """Scores of one shape over all rows, as of `version` of the columns."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.version = -1
        self.score: Floats = np.zeros(0)
        self.terms: npt.NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
        self.usable: Bools = np.zeros((0, 0), dtype=np.bool_)
        self._told: dict[tuple[int, float, int], ScoreTerm] = {}
        self._expected: dict[tuple[int, int, float | None], Expectation] = {}

    def refresh(self, fleet: Fleet, pipeline: Pipeline) -> None:
        columns = fleet.columns
        if self.version == columns.clock:
            return
        n = columns.rows
        if self.version < 0 or self.usable.shape != (columns.device.shape[1], n):
            self._score_all(fleet, pipeline, n)
        else:
            changed = columns.changed_since(self.version)
            if 2 * changed.shape[0] > n:
                self._score_all(fleet, pipeline, n)
            elif changed.shape[0]:
                self._score_some(fleet, pipeline, changed)
        self.version = columns.clock

    def _score_all(self, fleet: Fleet, pipeline: Pipeline, n: int) -> None:
        self.score, terms, self.usable = pipeline.score(fleet.columns.view(), self.ask)
        self.terms = np.array(terms, dtype=np.float32).reshape(len(pipeline.scores), n)

    def _score_some(self, fleet: Fleet, pipeline: Pipeline, rows: Ints) -> None:
        self.score[rows], terms, self.usable[:, rows] = pipeline.score(fleet.columns.view(rows), self.ask)
        self.terms[:, rows] = terms

    def terms_of(self, row: int, model: int, pipeline: Pipeline) -> tuple[ScoreTerm, ...]:
        """The row's terms, for a decision. Equal terms are one object: values come in steps."""
        found = []
        for position, value in enumerate(self.terms[:, row].tolist()):
            key = (position, value, model)
            term = self._told.get(key)
            if term is None:
                if len(self._told) > 1024:
                    self._told.clear()
                score = pipeline.scores[position]
                detail = score.detail(value, self.ask, model)
                term = self._told[key] = ScoreTerm(score.name, value, pipeline.weights[position], detail)
            found.append(term)
        return tuple(found)

    def expectation(self, fleet: Fleet, job: Job, model: int) -> Expectation:
        key = (model, job.replicas, job.expected_duration_seconds)
        known = self._expected.get(key)
        if known is None:
            if len(self._expected) > 256:
                self._expected.clear()
            known = self._expected[key] = expectation(fleet, self.ask, job, model)
        return known

    def size_bytes(self) -> int:
        return self.score.nbytes + self.terms.nbytes + self.usable.nbytes + 2048


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

    def get(self, shape: Shape) -> Table:
        """The shape's table, up to date."""
        models = self._fleet.models
        counts = (*models.counts, *models.sizes, -self._fleet.executors_known())
        if counts != self._counts:
            # The best and the rarest accelerator, and what a share is, are relative to what the fleet has.
            self._tables.clear()
            self._counts = counts
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
