"""Normalised units: a device of each model weighed by what it achieves on a queue's own work.

The unit of a model for a workload is its speed relative to the fleet's best model for that workload, from
the profiles; where none is known, its dense peak relative to the highest; where that is not known, 1. For a
queue it is the mean over its present work, waiting and running, weighted by the devices asked for. Units
are whole thousandths, at least 1, so that sums of them are exact whatever the order.
"""

from collections.abc import Mapping

from placement_engine.domain.models import Models

UNIT = 1000


class Units:
    """A function of the fleet, the profiles and a queue's work alone: what was before does not matter."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._counts: tuple[int, ...] = ()
        self._devices: dict[str, int] = {}
        self._relative: dict[str, dict[str, int]] = {}

    def moved(self) -> bool:
        """Whether the fleet's models changed since last asked: what was known is forgotten then."""
        counts = tuple(self._models.counts)
        if counts == self._counts:
            return False
        self._counts = counts
        self._devices = {}
        for name, count in zip(self._models.names, counts, strict=True):
            if count:
                self._devices[name.casefold()] = self._devices.get(name.casefold(), 0) + count
        self.forget()
        return True

    def forget(self) -> None:
        """Profiles or the catalogue changed."""
        self._relative.clear()

    def of(self, work: Mapping[str, int]) -> dict[str, int]:
        """Thousandths by model name (casefolded), of the models in the fleet. `work`: milli by workload."""
        asked = {workload: milli for workload, milli in work.items() if milli > 0}
        if not asked:
            return self._of_workload("")
        if len(asked) == 1:
            return self._of_workload(next(iter(asked)))
        total = sum(asked.values())
        tables = [(self._of_workload(workload), milli) for workload, milli in asked.items()]
        return {
            name: max(1, (sum(table[name] * milli for table, milli in tables) + total // 2) // total)
            for name in self._devices
        }

    def capacity(self, units: Mapping[str, int]) -> int:
        """The pool's devices in these units: thousandths of milli."""
        return sum(1000 * count * units.get(name, UNIT) for name, count in self._devices.items())

    def devices(self) -> Mapping[str, int]:
        """Present devices by model name (casefolded)."""
        return self._devices

    def _of_workload(self, workload: str) -> dict[str, int]:
        table = self._relative.get(workload)
        if table is None:
            estimator = self._models.estimator
            speeds, peaks = {}, {}
            for name in self._devices:
                entry = estimator.accelerator(name)
                peaks[name] = entry.dense_fp16_tflops if entry else None
                speeds[name] = estimator.estimate(workload, name, 1).speed if workload else None
            best_speed = max((speed for speed in speeds.values() if speed), default=None)
            best_peak = max((peak for peak in peaks.values() if peak), default=None)
            table = {}
            for name in self._devices:
                speed, peak, part = speeds[name], peaks[name], 1.0
                if speed and best_speed:
                    part = speed / best_speed
                elif peak and best_peak:
                    part = peak / best_peak
                table[name] = max(1, round(UNIT * part))
            self._relative[workload] = table
        return table
