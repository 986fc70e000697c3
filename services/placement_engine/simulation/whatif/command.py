"""`berth simulate whatif`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from berth.errors import InvalidInput

__all__ = ["whatif"]

JOBS_SHOWN = 20
_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--snapshot", "snapshot_file", type=_FILE, help="File of `berth debug snapshot`: the system as it runs")
@click.option("--scenario", "scenario_file", type=_FILE, help="Or a scenario, as of `berth simulate gang`")
@click.option("--add-nodes", type=_FILE, help="YAML with `nodes`, as of `berth apply`; a known name replaces the node")
@click.option("--remove-nodes", metavar="NAMES", default="", help="Nodes that leave at once, by comma")
@click.option("--policy", "policies", multiple=True, metavar="KEY=VALUE", help="A field of the policy; may be repeated")
@click.option("--queues", "queues_file", type=_FILE, help="YAML with `queues`: replace those of the name, or are new")
@click.option("--prices", default="", metavar="MODEL=DOLLARS", help="Dollars a device-hour, by comma")
@click.option("--jobs", "jobs_file", type=_FILE, help="YAML of jobs that come in addition, at once")
@click.option("--default-duration", default="1h", show_default=True, help="For jobs that declare none")
@click.option("--horizon", default="", metavar="DURATION", help="Cut the runs here [default: the end of all work]")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def whatif(
    snapshot_file: Path | None,
    scenario_file: Path | None,
    add_nodes: Path | None,
    remove_nodes: str,
    policies: tuple[str, ...],
    queues_file: Path | None,
    prices: str,
    jobs_file: Path | None,
    default_duration: str,
    horizon: str,
    output: str,
) -> None:
    """Run the present queue forward twice, as things are and changed, and compare.

    The running system comes from a snapshot (its queue, fleet, telemetry and claims); telemetry stays as it was
    last heard. Nothing is random, and nothing is changed in the running system. The policy's fields are those of a
    scenario's `policy`: --policy heat_floor_celsius=8 --policy weights.power=2.

    JSON: {"base", "changed": figures and events, "jobs", "notes"}.
    """
    from berth.jobs import parse_duration
    from placement_engine.domain.model import Job
    from placement_engine.simulation.gang.scenario import declared, read_documents, read_scenario
    from placement_engine.simulation.whatif.compare import Changes, compare

    if (snapshot_file is None) == (scenario_file is None):
        raise InvalidInput.of("--snapshot", snapshot_file or "", "give one of --snapshot and --scenario")
    default = parse_duration("--default-duration", default_duration)
    arrivals: Any = ()
    facts: Any = ()
    until = None
    if scenario_file is not None:
        scenario = read_scenario(scenario_file)
        situation, arrivals, facts, until = scenario.situation, scenario.arrivals, scenario.facts, scenario.end
    else:
        assert snapshot_file is not None
        situation = situation_from(snapshot_file)
    jobs: list[Job] = []
    if jobs_file is not None:
        jobs = jobs_of(read_documents(jobs_file), situation.now)
    changes = Changes(
        add_nodes=declared(read_documents(add_nodes))[0] if add_nodes else (),
        remove_nodes=tuple(name for name in remove_nodes.split(",") if name),
        queues=declared(read_documents(queues_file))[1] if queues_file else (),
        policy=dict(_pair("--policy", one) for one in policies),
        prices={model: _dollars(model, text) for model, text in (_pair("--prices", p) for p in _parts(prices))},
        jobs=tuple(jobs),
    )
    found = compare(
        situation,
        changes,
        arrivals=arrivals,
        facts=facts,
        default_seconds=default,
        until=situation.now + parse_duration("--horizon", horizon) if horizon else until,
    )
    click.echo(json.dumps(as_data(found), indent=2) if output == "json" else as_text(found))


def situation_from(path: Path) -> Any:
    """The situation of a snapshot file. Raises InvalidInput."""
    from placement_engine.domain import snapshot

    try:
        document = snapshot.from_bytes(path.read_bytes())
        engine = snapshot.load(document)
    except (OSError, snapshot.SnapshotError) as error:
        raise InvalidInput.of("--snapshot", path, str(error)) from error
    now = snapshot.taken_at(document)
    if now is None:
        raise InvalidInput.of("--snapshot", path, "it does not say when it was taken; `berth debug snapshot` notes it")
    return engine.situation(now)


def jobs_of(documents: Sequence[Any], now: float) -> list[Any]:
    from berth.jobs import parse_document
    from placement_engine.adapters import translate

    specs = [parse_document(document) for document in documents]
    return [translate.job_from_spec(spec, job_id=spec.name, submitted_at=now, attempt=1) for spec in specs]


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidInput.of(option, text, "write NAME=VALUE")
    return name.strip(), value.strip()


def _dollars(model: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInput.of("--prices", f"{model}={text}", "write dollars an hour, such as H100-SXM=2.10") from error


def as_data(found: Any) -> dict[str, Any]:
    from placement_engine.simulation.gang.report import events

    return {
        "base": {**asdict(found.base), "events": events(found.base_history)},
        "changed": {**asdict(found.changed), "events": events(found.changed_history)},
        "jobs": [asdict(job) for job in found.jobs],
        "notes": list(found.notes),
    }


def as_text(found: Any) -> str:
    from placement_engine.simulation.__main__ import table
    from placement_engine.simulation.gang.report import clock_text, figures, short

    base, changed = dict(figures(found.base)), dict(figures(found.changed))
    names = list(dict.fromkeys((*base, *changed)))
    held = [name for name in names if name.startswith("device-hours ") and name != "device-hours lost"]
    at = names.index("use of devices") + 1
    names = [name for name in names[:at] if name not in held] + held + [n for n in names[at:] if n not in held]
    rows = [{"figure": name, "as it is": base.get(name, "-"), "changed": changed.get(name, "-")} for name in names]
    parts = [table(("figure", "as it is", "changed"), rows)]
    other = [job for job in found.jobs if job.differs]
    rows = [
        {
            "job": job.name,
            "start": clock_text(job.base_start_seconds),
            "end": clock_text(job.base_end_seconds),
            "nodes": short(job.base_nodes) or "-",
            "start'": clock_text(job.changed_start_seconds),
            "end'": clock_text(job.changed_end_seconds),
            "nodes'": short(job.changed_nodes) or "-",
        }
        for job in other[:JOBS_SHOWN]
    ]
    if rows:
        parts.append(table(("job", "start", "end", "nodes", "start'", "end'", "nodes'"), rows))
    else:
        parts.append("every job starts and ends as it does now")
    if len(other) > JOBS_SHOWN:
        parts.append(f"and {len(other) - JOBS_SHOWN} more jobs that start, end or sit otherwise: see -o json")
    if found.notes:
        parts.append("\n".join(f"note: {note}" for note in found.notes))
    return "\n\n".join(parts)
