"""What a filter and a score are. Each plugin is one small file; the registries show them all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from placement_engine.domain.columns import Bools, Floats, View
from placement_engine.domain.hosting_value import Kind
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask

Description = tuple[str, dict[str, float]]


class RowFilter(Protocol):
    """Judges rows: k answers. Plugins read only the view and the ask, so answers can be cached."""

    @property
    def name(self) -> str: ...

    @property
    def code(self) -> str:
        """Stable; what programs match on."""
        ...

    def passes(self, view: View, ask: Ask) -> Bools: ...

    def describe(self, view: View, ask: Ask) -> Description:
        """A sentence and its numbers, over the rows it excluded."""
        ...


class DeviceFilter(RowFilter, Protocol):
    """The same for devices: `passes` answers (slots, k)."""


class Selective:
    """A filter that passes everything for some asks: for those it is not asked at all."""

    def concerns(self, ask: Ask) -> bool:
        raise NotImplementedError


class Floors:
    """A filter that says no where a column has less than the ask needs: all of them together are one comparison.

    Of row filters the columns are row columns (BOUNDED), of device filters device columns (BOUNDED_DEVICE)."""

    def floors(self, ask: Ask) -> Mapping[int, Floats | float] | None:
        """By column the least that passes, for all models or by model number, -inf where anything does; an empty
        one passes everything. None: for this ask floors do not tell, `passes` does."""
        raise NotImplementedError

    def passes(self, view: View, ask: Ask) -> Bools:
        raise NotImplementedError


class RowFloors(Floors):
    def passes(self, view: View, ask: Ask) -> Bools:
        floors = self.floors(ask)
        assert floors is not None
        passing = np.ones(view.model.shape[0], dtype=np.bool_)
        for column, least in floors.items():
            passing &= view.rows(column) >= _of_rows(least, view)
        return passing


class DeviceFloors(Floors):
    def passes(self, view: View, ask: Ask) -> Bools:
        floors = self.floors(ask)
        assert floors is not None
        passing = np.ones(view.device.shape[1:], dtype=np.bool_)
        for column, least in floors.items():
            passing &= view.devices(column) >= _of_rows(least, view)
        return passing


def _of_rows(least: Floats | float, view: View) -> Floats | float:
    return least.take(view.model) if isinstance(least, np.ndarray) else least


class ByTier:
    """A row filter that looks at the age of the telemetry alone."""

    def tiers(self) -> Bools:
        """By tier, whether it passes: (TIERS)."""
        raise NotImplementedError


class ByPower:
    """The row filter of a node's power, member_watts: there is one."""


class ByExecutor:
    """The row filter of what starts the job, a bit of the executors of a node: there is one."""


@dataclass(frozen=True, slots=True)
class OfModel:
    """A score that is a value of the accelerator model, by its number."""

    values: Floats


@dataclass(frozen=True, slots=True)
class OfColumn:
    """A score that is a row column."""

    column: int


@dataclass(frozen=True, slots=True)
class OfSteps:
    """A score that is one of these values, numbered by a row column."""

    column: int
    values: Floats


@dataclass(frozen=True, slots=True)
class Hosted:
    """The score of what a kind of work takes from the hosting value, over a scale in milli: see Fragmentation."""

    kind: Kind
    scale: float


Form = OfModel | OfColumn | OfSteps | Hosted
"""What a score is, told as data."""


class Formed:
    """A score that tells what it is; optional, and for speed alone (see compiled.py)."""

    def form(self, ask: Ask) -> Form | None:
        """The very values of `values`. None: for this ask it has no form."""
        raise NotImplementedError


class ByModel:
    """A row filter that looks at the accelerator model alone: all of them together are one mask."""

    def models(self, ask: Ask) -> Bools | None:
        """By model number; None: for this ask the model alone does not tell, `passes` does."""
        raise NotImplementedError

    def passes(self, view: View, ask: Ask) -> Bools:
        models = self.models(ask)
        assert models is not None
        return models.take(view.model)


class Score(Protocol):
    """A value in 0..1 per row, higher is better, on an absolute scale: it depends on the row alone."""

    @property
    def name(self) -> str: ...

    def weight(self, weights: Weights) -> float: ...

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        """`usable`: (slots, k), the devices that passed every filter."""
        ...

    def detail(self, value: float, ask: Ask, model: int) -> str:
        """For a person."""
        ...
