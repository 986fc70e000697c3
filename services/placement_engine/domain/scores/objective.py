"""What the profiles say of cost, time, latency or energy, relative to the best of all accelerators and counts."""

from placement_engine.domain import model as messages
from placement_engine.domain.columns import Bools, Floats, View
from placement_engine.domain.model import Expectation, Provenance
from placement_engine.domain.plugins import Form, Formed, OfModel
from placement_engine.domain.policy import Weights
from placement_engine.domain.shapes import Ask

GOAL = messages.Objective


class Objective(Formed):
    name = "Objective"

    def weight(self, weights: Weights) -> float:
        return weights.objective

    def values(self, view: View, usable: Bools, ask: Ask) -> Floats:
        return ask.objective.take(view.model)

    def form(self, ask: Ask) -> Form:
        return OfModel(ask.objective)

    def detail(self, value: float, ask: Ask, model: int) -> str:
        goal = ask.shape.objective.value
        if not ask.objective_known[model]:
            return f"{goal} unknown here: neutral"
        return f"{value:.0%} of the best {goal}{_because(ask, model)}"


def figure(ask: Ask, expected: Expectation) -> str:
    """ "2 devices, $1.84: ", as far as it is known; "" where nothing is to be told."""
    told = [f"{expected.devices} device{'' if expected.devices == 1 else 's'}"] if ask.shape.flexible else []
    match ask.shape.objective:
        case GOAL.COST if expected.cost_dollars is not None:
            told.append(f"${expected.cost_dollars:.2f}")
        case GOAL.ENERGY if expected.energy_joules is not None:
            told.append(f"{expected.energy_joules / 3.6e6:.3g} kWh")
        case GOAL.TIME if expected.duration_seconds is not None:
            told.append(f"{expected.duration_seconds:.4g} s")
        case GOAL.LATENCY if expected.latency_seconds is not None:
            told.append(f"p99 {expected.latency_seconds:.3g} s")
    return ", ".join(told) + ": " if told else ""


def remarks(ask: Ask, model: int, names: list[str]) -> tuple[str, ...]:
    """For the summary: the number of devices against the others, and where no profile of the accelerator spoke."""
    estimate = ask.outlook.estimates.get((ask.shape.whole, model))
    if estimate is None:
        return ()
    told = []
    if ask.shape.flexible:
        told.append(_other_counts(ask, model, names))
    if estimate.provenance in {Provenance.ROOFLINE, Provenance.TRANSFERRED}:
        told.append(_because(ask, model).removeprefix("; "))
    return tuple(told)


def cautions(ask: Ask, model: int) -> list[str]:
    """Constraints that the accelerator meets by its mean estimate only."""
    if not (ask.deadline_by_mean or ask.outlook.latency_by_mean):
        return []
    estimate = ask.outlook.estimates.get((ask.shape.whole, model))
    told = []
    if ask.outlook.latency_by_mean and estimate is not None and estimate.latency_seconds is not None:
        told.append("only the mean estimate meets its latency target")
    if ask.deadline_by_mean and estimate is not None and estimate.speed:
        told.append("only the mean estimate meets its deadline")
    return told


def _because(ask: Ask, model: int) -> str:
    estimate = ask.outlook.estimates.get((ask.shape.whole, model))
    if estimate is None or not estimate.basis:
        return ""
    return f"; {estimate.basis}, \N{PLUS-MINUS SIGN}{estimate.relative_uncertainty or 0.0:.0%}"


def _other_counts(ask: Ask, model: int, names: list[str]) -> str:
    """The count taken, and the best accelerator of each other count: what else there was, fitting now or not."""
    best: dict[int, tuple[float, str]] = {}
    for (count, kind), value in sorted(ask.outlook.values.items()):
        if count != ask.shape.whole and value > best.get(count, (-1.0, ""))[0]:
            best[count] = (value, names[kind])
    taken = f"{ask.shape.whole} x {names[model]}"
    own = ask.outlook.values.get((ask.shape.whole, model))
    if own is None or not best:
        return f"{taken}: no other number of devices compares"
    told = ", ".join(f"{count} x {name} {value:.0%}" for count, (value, name) in sorted(best.items()))
    return f"{taken} has {own:.0%} of the best {ask.shape.objective.value}, else {told}"
