"""`berth simulate gang`."""

import json
import math
from pathlib import Path

import click

__all__ = ["gang"]


@click.command()
@click.option(
    "--scenario", "scenario_file", type=click.Path(path_type=Path), required=True, help="YAML of nodes, queues and jobs"
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def gang(scenario_file: Path, output: str) -> None:
    """Run a small scenario on a virtual clock and print every start and end.

    The scenario is a YAML file. `queues`, `pools` and `nodes` are those of `berth apply` (a node with `count: 4`
    is four of them); `jobs` are those of `berth submit` with three more words: `at: 10m` is when the job comes,
    `duration: 2h` how long it truly runs (on the fastest accelerator of its profile, where it also declares an
    `expected_duration`), `count: 3` with `every: 5m` makes several. `events` change nodes: {at: 1h, node: n-1,
    state: down | up | cordon | uncordon}, or what devices report: {at: 1h, node: n-1, devices: [0],
    margin_celsius: 2}. The engine knows `expected_duration` only. docs/scenarios.md has it all,
    examples/scenarios/ has examples.

    Nothing is random: the same file gives the same answer. JSON: {"events", "jobs", "waiting", "outcome"}.
    """
    from placement_engine.simulation.clock import Clock
    from placement_engine.simulation.gang.report import as_text, report
    from placement_engine.simulation.gang.scenario import read_scenario

    given = read_scenario(scenario_file)
    clock = Clock(given.situation, given.arrivals, given.facts, default_seconds=given.default_seconds)
    history = clock.run(math.inf if given.end is None else given.end)
    click.echo(json.dumps(report(history), indent=2) if output == "json" else as_text(history))
