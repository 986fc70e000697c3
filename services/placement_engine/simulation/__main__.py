"""`python -m placement_engine.simulation`, which `berth simulate` runs. Exit codes: 0 done, 1 failed, 2 misuse."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from berth.cli.failures import report
from berth.cli.progress import Progress
from berth.errors import BerthError, InvalidInput
from placement_engine.simulation.gang.command import gang
from placement_engine.simulation.whatif.command import whatif

__all__ = ["main", "root"]

COLUMNS = (
    "policy", "seed", "arrival", "allocation_percent", "failed_pods", "failed_cpu_pods", "power_kw",
    "decisions_per_second",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def root() -> None:
    """Run the placement engine offline: published traces, scenarios of your own, and what-if. No service is needed."""


@root.command()
@click.option("--nodes", "nodes_file", type=click.Path(path_type=Path), required=True, help="nodes.csv of the trace")
@click.option("--pods", "pods_file", type=click.Path(path_type=Path), required=True, help="pods_*.csv of the trace")
@click.option("--seeds", default="42", show_default=True, metavar="LIST", help="Such as 42-51 or 42,44,46-48")
@click.option("--policy", "policies", default="berth", show_default=True, metavar="LIST", help="Policies, by comma")
@click.option("--arrival", default="1.0", show_default=True, metavar="LIST", help="Report here; 0.1 to 1.3, by comma")
@click.option("--variant", metavar="NAME", help="Shift one property of the pods, such as multigpu50; see below")
@click.option("--variant-seed", type=click.IntRange(min=0), default=1, show_default=True, help="Draws its tasks")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def openb(
    nodes_file: Path,
    pods_file: Path,
    seeds: str,
    policies: str,
    arrival: str,
    variant: str | None,
    variant_seed: int,
    output: str,
) -> None:
    """Replay the openb trace: tasks arrive until they ask for 1.3 x the fleet's devices, and none leaves.

    Policies: berth (its mix is known), berth-online (learnt), berth-power (thrifty while there is room),
    berth-expected (a quicker fill), engine (the running engine itself), engine-power (the same, thrifty while there
    is room), fgd, bestfit, dotprod, packing, random, pwr. --arrival 1.0 reports the moment at which the requests so
    far reach the capacity of the fleet. The same seed gives the same rows, but for the speed.

    Variants are drawn from the pods given, as the published lists were: multigpuN and gpushareN (N % of what devices
    are asked for is by tasks of several, or of a share), gpuspecN (N % of the tasks with devices demand a model;
    from a list with such tasks), cpuN (N tenths of a % of all tasks are CPU-only).
    """
    from placement_engine.simulation.openb.replay import Row, means, replay
    from placement_engine.simulation.openb.trace import read_nodes, read_pods
    from placement_engine.simulation.openb.variants import varied

    numbers, names, marks = parse_seeds(seeds), parse_policies(policies), parse_marks(arrival)
    nodes, workload = read_nodes(nodes_file), read_pods(pods_file)
    if variant is not None:
        workload = varied(workload, variant, variant_seed)
    rows: list[Row] = []
    with Progress("simulating", 100 * len(numbers) * len(names)) as bar:
        for done, (name, seed) in enumerate((name, seed) for name in names for seed in numbers):
            rows += replay(
                nodes,
                workload,
                name,
                seed,
                marks,
                progress=lambda share, done=done, at=f"{name}, seed {seed}": bar.at(  # type: ignore[misc]
                    int(100 * (done + min(1.0, share / marks[-1]))), at
                ),
            )
    if output == "json":
        click.echo(json.dumps({"rows": [asdict(row) for row in rows], "mean": means(rows)}, indent=2))
        return
    click.echo(table(COLUMNS, [asdict(row) for row in rows]))
    click.echo("\nmean of the seeds")
    click.echo(table(("policy", "arrival", "allocation_percent", "power_kw"), means(rows)))


@root.command()
@click.option("--throughputs", type=click.Path(path_type=Path), required=True, help="Steps a second, as JSON")
@click.option("--jobs", "jobs_file", type=click.Path(path_type=Path), required=True, help="Arrivals, as CSV")
@click.option("--cluster", default="v100=36,p100=36,k80=36", show_default=True, metavar="KIND=N,...", help="Devices")
@click.option("--round", "round_s", type=float, default=360.0, show_default=True, help="Seconds between plans")
@click.option("--window", default="4000-4999", show_default=True, metavar="FROM-TO", help="Jobs that are measured")
@click.option("--policy", "policies", default="berth", show_default=True, metavar="LIST", help="Policies, by comma")
@click.option("--share-devices", is_flag=True, help="Two jobs may run on one device, by the table's rates of pairs")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def gavel(
    throughputs: Path,
    jobs_file: Path,
    cluster: str,
    round_s: float,
    window: str,
    policies: str,
    share_devices: bool,
    output: str,
) -> None:
    """Replay training jobs on a cluster of several kinds, planned anew each round, under the protocol of Gavel.

    Policies: berth, max_min_fairness, las, allox, fifo, berth-known-durations. Only allox and berth-known-durations
    are told how long jobs will run. utilisation: time in which a device had a job, of the makespan.
    worst_finish_time_fairness: completion time over that with a private 1/n of the cluster; the least is best.
    """
    from placement_engine.simulation.gavel import options
    from placement_engine.simulation.gavel.policies import Setting
    from placement_engine.simulation.gavel.replay import COLUMNS as GAVEL_COLUMNS
    from placement_engine.simulation.gavel.replay import replay
    from placement_engine.simulation.gavel.trace import read_jobs, read_throughputs

    machines = options.parse_cluster(cluster)
    table_of_rates = read_throughputs(throughputs, machines)
    setting = Setting(table_of_rates, machines, options.parse_round(round_s), share_devices)
    workload = read_jobs(jobs_file, table_of_rates, machines)
    names = options.parse_policies(policies, workload, share=share_devices)
    measured = options.parse_window(window, workload)
    rows = []
    with Progress("simulating", 100 * len(names)) as bar:
        for done, name in enumerate(names):
            rows.append(
                replay(
                    workload,
                    setting,
                    name,
                    measured,
                    progress=lambda share, done=done, at=name: bar.at(int(100 * (done + share)), at),  # type: ignore[misc]
                )
            )
    if output == "json":
        click.echo(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
        return
    click.echo(table(GAVEL_COLUMNS, [asdict(row) for row in rows]))


root.add_command(gang)
root.add_command(whatif)


def parse_seeds(text: str) -> list[int]:
    """`42-44,50` as [42, 43, 44, 50]. Raises InvalidInput."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit()))):
            raise InvalidInput.of("--seeds", part, "whole numbers or ranges by comma, such as 42-51")
        first, last = int(low), int(high or low)
        if not first <= last < first + 10_000:
            raise InvalidInput.of("--seeds", part, "a range goes upwards and has at most 10,000 seeds")
        found.extend(range(first, last + 1))
    return list(dict.fromkeys(found))


def parse_policies(text: str) -> list[str]:
    """Names of policies, each once. Raises InvalidInput."""
    from placement_engine.simulation.openb.policies import POLICIES

    found = [part.strip() for part in text.split(",")]
    for name in found:
        if name not in POLICIES:
            raise InvalidInput.of("--policy", name, f"one of {', '.join(POLICIES)}")
    return list(dict.fromkeys(found))


def parse_marks(text: str) -> list[float]:
    """Arrivals as shares of the capacity, ascending. Raises InvalidInput."""
    found: set[float] = set()
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0.1 <= value <= 1.3:
            raise InvalidInput.of("--arrival", part, "numbers from 0.1 to 1.3 by comma")
        found.add(value)
    return sorted(found)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Text with aligned columns; what is not known is a dash."""
    cells = [[column.upper().replace("_", " ") for column in columns]]
    for row in rows:
        values = [row[column] for column in columns]
        cells.append(["-" if one is None else f"{one:.2f}" if isinstance(one, float) else str(one) for one in values])
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def main() -> None:
    try:
        root.main(prog_name="berth simulate", standalone_mode=True)
    except BerthError as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
