"""`berth audit`."""

import click

from berth.cli.session import Session, connected

__all__ = ["audit"]


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
@connected
async def audit(session: Session, output: str) -> int:
    """Check the invariants on the database itself: no claim beyond a capacity, no gang in part, nothing lost.

    Exit code 1 where one is broken.
    """
    from berth.cli.output import as_data, dump, render_table
    from berth.v1 import placement_pb2 as pb

    answer = await session.placement.Audit(pb.AuditRequest())
    if output != "table":
        click.echo(dump(as_data(answer), output))
        return 1 if answer.violations else 0
    for line in render_table(
        (), [(name, str(answer.counts[name])) for name in sorted(answer.counts)], right=(False, True)
    ):
        click.echo(line)
    if not answer.violations:
        click.echo("every invariant holds")
        return 0
    click.echo(f"{len(answer.violations)} violations", err=True)
    rows = [(one.invariant, one.subject, one.message) for one in answer.violations]
    for line in render_table(("INVARIANT", "SUBJECT", "MESSAGE"), rows):
        click.echo(line)
    return 1
