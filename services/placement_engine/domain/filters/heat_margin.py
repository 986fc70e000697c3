"""Degrees to slowdown, now and by forecast: below the floor a device takes no new work until floor + hysteresis."""

import numpy as np

from placement_engine.domain.columns import FORECAST, HEATING, HOT, MARGIN, View
from placement_engine.domain.filters.flags import Flag
from placement_engine.domain.plugins import Description
from placement_engine.domain.policy import Policy
from placement_engine.domain.shapes import Ask


class HeatMargin(Flag):
    name = "HeatMargin"
    code = "HEAT_MARGIN_BELOW_FLOOR"
    bit = HOT

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def describe(self, view: View, ask: Ask) -> Description:
        hot = int(self.raised(view).sum())
        floor, back = self._policy.heat_floor_celsius, self._policy.heat_hysteresis_celsius
        return (
            f"{hot} devices are too hot: margin below {floor:g} degrees, or not yet back at {floor + back:g}",
            {"devices_hot": float(hot), "floor_celsius": floor, "resume_celsius": floor + back},
        )


class HeatForecast(Flag):
    """The margin itself would do, but it falls fast."""

    name = "HeatMargin"
    code = "HEAT_MARGIN_FORECAST_BELOW_FLOOR"
    bit = HEATING

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def describe(self, view: View, ask: Ask) -> Description:
        raised, seconds = self.raised(view), self._policy.heat_forecast_seconds
        floor, back = self._policy.heat_floor_celsius, self._policy.heat_hysteresis_celsius
        heating = int(raised.sum())
        worst = np.unravel_index(np.where(raised, view.devices(FORECAST), np.inf).argmin(), raised.shape)
        margin, forecast = float(view.devices(MARGIN)[worst]), float(view.devices(FORECAST)[worst])
        slope = (forecast - margin) / seconds if seconds > 0 else 0.0
        return (
            f"{heating} devices heat up towards the floor of {floor:g} degrees: the hottest has {margin:.1f} left, "
            f"{slope:+.2f} a second, so {forecast:.1f} in {seconds:g} s",
            {
                "devices_heating": float(heating),
                "margin_celsius": margin,
                "slope_celsius_per_second": slope,
                "forecast_celsius": forecast,
                "forecast_seconds": seconds,
                "floor_celsius": floor,
                "resume_celsius": floor + back,
            },
        )
