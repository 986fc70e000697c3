"""How many devices: of the numbers that a flexible job may get, the best by its objective that fits now.

The objective alone decides between numbers: the other scores compare nodes for one demand, and "fits
tighter" would favour the larger. Values are relative to the best of all numbers and accelerators, so two
A100 and one H100 compare. Equal values: fewer devices. A job never waits for a better number.
"""

from collections.abc import Callable
from dataclasses import replace

from placement_engine.domain.fleet import Fleet
from placement_engine.domain.model import WHOLE_DEVICE, Job, Member
from placement_engine.domain.reserve import Reserver
from placement_engine.domain.shapes import Ask, Shape
from placement_engine.domain.tables import Table, Tables


def best_shape(
    job: Job,
    shape: Shape,
    now: float,
    *,
    fleet: Fleet,
    tables: Tables,
    reserver: Reserver,
    ask: Callable[[Table], Ask],
    admitted: Callable[[Job], bool],
) -> Shape:
    """The job's shape at its best number. Where none fits: the least that could do, were it free. Changes nothing.

    `ask`: what the job asks for at a table's number. `admitted`: whether its queue's limit lets the job have
    `Job.devices` a member.
    """
    chosen, best = shape, -1.0
    could_do: list[Shape] = []
    for worth, count in tables.get(shape).ask.outlook.most_worth():
        if (worth, -count) < (best, -chosen.whole) or not (
            count == shape.least or admitted(replace(job, devices=count))
        ):
            continue
        table = tables.get(shape.at(count))
        asked = ask(table)
        if asked.outlook.could_do(count, asked.in_time):
            could_do.append(asked.shape)
        reservation = reserver.reserve(job, asked, table, now)
        if reservation is None:
            continue
        fleet.let_go_all(job.job_id, reservation.members)
        value = float(asked.objective[fleet.columns.model[reservation.row]])
        if best < 0 or (value, -count) > (best, -chosen.whole):
            chosen, best = asked.shape, value
    if best < 0 and could_do:
        return min(could_do, key=lambda one: one.whole)
    return chosen


def held_shape(shape: Shape, member: Member) -> Shape:
    """The shape at the number of devices that a member of it has."""
    whole = sum(1 for device in member.devices if device.milli == WHOLE_DEVICE)
    return shape.at(whole) if shape.flexible and whole else shape
