"""`berth apply`."""

import click

from berth.cli.session import Session, connected

__all__ = ["apply"]

NODES_A_CALL = 250


@click.command()
@click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="FILE", help="YAML file; - for standard input"
)
@click.option("--dry-run", is_flag=True, help="Check the files only")
@connected
async def apply(session: Session, files: tuple[str, ...], dry_run: bool) -> None:
    """Create or change the queues, pools and static nodes of a file."""
    from berth.cli.commands.submit import documents
    from berth.cli.declarations import parse_declarations
    from berth.v1 import placement_pb2, telemetry_pb2

    declared = parse_declarations(list(documents(files)))
    if not dry_run:
        if declared.pools:
            await session.placement.ApplyPools(placement_pb2.ApplyPoolsRequest(pools=declared.pools))
        if declared.queues:
            await session.placement.ApplyQueues(placement_pb2.ApplyQueuesRequest(queues=declared.queues))
        for first in range(0, len(declared.nodes), NODES_A_CALL):
            nodes = declared.nodes[first : first + NODES_A_CALL]
            await session.telemetry.ApplyNodes(telemetry_pb2.ApplyNodesRequest(nodes=nodes))
    done = "would be applied" if dry_run else "applied"
    for kind, names in (
        ("pool", [pool.name for pool in declared.pools]),
        ("queue", [queue.name for queue in declared.queues]),
        ("node", [node.name for node in declared.nodes]),
    ):
        for name in names:
            click.echo(f"{kind}/{name} {done}")
