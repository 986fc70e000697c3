"""`python -m placement_engine.replay FILE`, which `berth debug replay` runs. Exit codes: 0 equal, 1 not, 2 misuse."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from berth.cli.failures import report
from berth.cli.output import render_table
from berth.errors import BerthError, InvalidInput
from placement_engine.domain import snapshot
from placement_engine.domain.journal import Journal, Replay, replay
from placement_engine.domain.model import CycleResult

__all__ = ["main"]

TITLES = ("TIME", "DECIDED", "JOB", "ATTEMPT", "WHERE", "WHY")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--last", default=20, show_default=True, type=click.IntRange(0), help="Decisions to show; 0: all")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(file: Path, last: int, output: str) -> None:
    """Make the recorded events of the snapshot FILE happen again, offline, and compare every decision.

    FILE is of `berth debug snapshot`. Exit code 0: all came out the same, byte for byte; 1: the first difference is
    shown.
    """
    journal, digest = read(file)
    done = replay(journal)
    # The state at the end is compared too: a difference that no answer shows yet.
    same_state = done.equal and done.engine.state_digest() == digest
    rows = decided(journal, done)
    shown = rows[-last:] if last else rows
    if output == "json":
        click.echo(json.dumps({**summary(done, len(rows), same_state), "decided": shown}, indent=2))
    else:
        if len(rows) > len(shown):
            click.echo(f"the last {len(shown)} of {len(rows)}")
        lines = [[f"{row['time']:.3f}", *(str(row[t.lower()]) for t in TITLES[1:])] for row in shown]
        click.echo("\n".join(render_table(TITLES, lines)))
        click.echo("")
        click.echo(verdict(done, len(rows), same_state))
    sys.exit(0 if same_state else 1)


def read(file: Path) -> tuple[Journal, bytes]:
    """The journal of a snapshot file and the digest of the state it ends in. Raises InvalidInput."""
    try:
        document = snapshot.from_bytes(file.read_bytes())
        journal = snapshot.journal_of(document)
        digest = snapshot.load(document).state_digest()
    except (OSError, snapshot.SnapshotError) as error:
        raise InvalidInput.of("FILE", file, str(error)) from error
    if journal is None:
        raise InvalidInput.of("FILE", file, "it has no journal: the engine did not record; take it of a running system")
    return journal, digest


def decided(journal: Journal, done: Replay) -> list[dict[str, Any]]:
    """What the replay decided, one row a decision or preemption, in order."""
    times = [event.arguments[0] for event in journal.events if isinstance(event.answer, CycleResult)]
    rows = []
    for time, cycle in zip(times, done.cycles, strict=False):
        rows += [
            {
                "time": time,
                "decided": "place",
                "job": one.job_id,
                "attempt": one.attempt,
                "where": ",".join(dict.fromkeys(member.node for member in one.members)),
                "why": one.summary,
            }
            for one in cycle.decisions
        ]
        rows += [
            {
                "time": time,
                "decided": "stop",
                "job": one.job_id,
                "attempt": one.attempt,
                "where": "-",
                "why": f"{one.kind.value} for {one.for_job_id}",
            }
            for one in cycle.preemptions
        ]
    return rows


def summary(done: Replay, decisions: int, same_state: bool) -> dict[str, Any]:
    difference = done.difference
    return {
        "events": done.events,
        "cycles": len(done.cycles),
        "decisions": decisions,
        "equal": same_state,
        "difference": None
        if difference is None
        else {
            "event": difference.event,
            "method": difference.method,
            "recorded": difference.recorded,
            "replayed": difference.replayed,
        },
    }


def verdict(done: Replay, decisions: int, same_state: bool) -> str:
    counts = f"{done.events} events, {len(done.cycles)} cycles, {decisions} decisions"
    if done.difference is not None:
        one = done.difference
        return f"DIFFERENT at event {one.event} ({one.method}):\n  recorded  {one.recorded}\n  replayed  {one.replayed}"
    return f"equal: {counts}" if same_state else f"DIFFERENT: {counts} are equal, but not the state they lead to"


def main() -> None:
    try:
        command.main(prog_name="berth debug replay", standalone_mode=True)
    except BerthError as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
