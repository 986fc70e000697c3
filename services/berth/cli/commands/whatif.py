"""`berth whatif`."""

from typing import Any

import click

from berth.cli.session import Session, connected

__all__ = ["whatif"]

JOBS_SHOWN = 20


@click.command()
@click.option("--pool", default="default", show_default=True, help="The pool that is run forward")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Nodes and queues as for `berth apply`")
@click.option("--remove-nodes", metavar="NAMES", default="", help="Nodes that leave at once, by comma")
@click.option("--policy", "policies", multiple=True, metavar="KEY=VALUE", help="A field of the policy; repeat")
@click.option("--price", "prices", multiple=True, metavar="MODEL=DOLLARS", help="Dollars a device-hour; repeat")
@click.option("--jobs", "job_files", multiple=True, metavar="FILE", help="Jobs that come in addition, at once")
@click.option("--default-duration", default="1h", show_default=True, help="For jobs that declare none")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@connected
async def whatif(
    session: Session,
    pool: str,
    files: tuple[str, ...],
    remove_nodes: str,
    policies: tuple[str, ...],
    prices: tuple[str, ...],
    job_files: tuple[str, ...],
    default_duration: str,
    output: str,
) -> None:
    """Run the present queue forward twice, as things are and changed, and compare.

    Nothing is changed in the running system. With more or other nodes (-f), fewer, another policy, other quotas,
    other prices, or jobs to come. `berth simulate whatif` does the same offline, from a snapshot.
    """
    from google.protobuf.json_format import MessageToDict

    from berth.cli.commands.submit import documents
    from berth.cli.declarations import parse_declarations
    from berth.cli.output import dump
    from berth.errors import InvalidInput
    from berth.jobs import parse_document, parse_duration
    from berth.v1 import placement_pb2 as pb

    declared = parse_declarations(list(documents(files))) if files else None
    request = pb.WhatIfRequest(
        pool=pool,
        add_nodes=declared.nodes if declared else [],
        queues=declared.queues if declared else [],
        remove_nodes=[name.strip() for name in remove_nodes.split(",") if name.strip()],
        policy=dict(pair("--policy", one) for one in policies),
        jobs=[parse_document(one) for one in documents(job_files)] if job_files else [],
        default_duration_seconds=parse_duration("--default-duration", default_duration),
    )
    for model, text in (pair("--price", one) for one in prices):
        try:
            request.prices[model] = float(text)
        except ValueError as error:
            raise InvalidInput.of("--price", f"{model}={text}", "write dollars an hour, as H100-SXM=2.10") from error
    answer = await session.placement.WhatIf(request)
    if output == "table":
        click.echo("\n".join(as_lines(answer)))
    else:
        click.echo(dump(MessageToDict(answer, preserving_proto_field_name=True), output))


def pair(option: str, text: str) -> tuple[str, str]:
    """`name=value` in two. Raises InvalidInput."""
    from berth.errors import InvalidInput

    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InvalidInput.of(option, text, "write NAME=VALUE")
    return name.strip(), value.strip()


def as_lines(answer: Any) -> list[str]:
    """Both runs side by side, the jobs that go otherwise, and what was assumed."""
    from berth.cli import kinds
    from berth.cli.output import render_table

    rows = [(name, text(answer.base), text(answer.changed)) for name, text in FIGURES]
    lines = list(render_table(("FIGURE", "AS IT IS", "CHANGED"), rows, right=(False, True, True)))
    other = [job for job in answer.jobs if differs(job)]
    if not other:
        return [*lines, "", "every job starts and ends as it does now", *notes(answer)]
    titles = ["JOB", "START", "END", "NODES", "START'", "END'", "NODES'"]
    jobs = []
    for job in other[:JOBS_SHOWN]:
        cells = [job.name or job.job_id]
        for side in ("base", "changed"):
            cells += [moment(kinds.optional(job, f"{side}_{what}_seconds")) for what in ("start", "end")]
            cells.append(kinds.short_list(list(dict.fromkeys(getattr(job, f"{side}_nodes")))))
        jobs.append(cells)
    lines += ["", *render_table(titles, jobs)]
    if len(other) > JOBS_SHOWN:
        lines.append(f"and {len(other) - JOBS_SHOWN} more jobs that start, end or sit otherwise: see -o json")
    return [*lines, *notes(answer)]


def moment(seconds: float | None) -> str:
    """From now."""
    from berth.cli import units

    return "now" if seconds == 0 else units.duration(seconds)


def notes(answer: Any) -> list[str]:
    return ["", *(f"note: {note}" for note in answer.notes)] if answer.notes else []


def differs(job: Any) -> bool:
    from berth.cli import kinds

    def side(name: str) -> tuple[Any, ...]:
        times = (kinds.optional(job, f"{name}_{what}_seconds") for what in ("start", "end"))
        return (*times, *getattr(job, f"{name}_nodes"))

    return side("base") != side("changed")


def _optional(field: str, show: Any) -> Any:
    def text(outcome: Any) -> str:
        return str(show(getattr(outcome, field))) if outcome.HasField(field) else "-"

    return text


def _duration(seconds: float) -> str:
    from berth.cli import units

    return units.duration(seconds)


FIGURES = (
    ("jobs finished", lambda outcome: str(outcome.jobs_finished)),
    ("jobs still waiting", lambda outcome: str(outcome.jobs_waiting)),
    ("mean wait", _optional("mean_wait_seconds", _duration)),
    ("wait, 95 of 100", _optional("p95_wait_seconds", _duration)),
    ("mean completion", _optional("mean_completion_seconds", _duration)),
    ("last end", _optional("makespan_seconds", _duration)),
    ("use of devices", _optional("utilisation", lambda share: f"{share:.0%}")),
    ("cost", _optional("cost_dollars", lambda dollars: f"${dollars:,.2f}")),
    ("energy", _optional("energy_joules", lambda joules: f"{joules / 3.6e6:,.2f} kWh")),
    ("fairness over queues", _optional("fairness", lambda index: f"{index:.2f}")),
    ("preemptions", lambda outcome: str(outcome.preemptions)),
)
