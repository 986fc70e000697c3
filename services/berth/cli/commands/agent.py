"""`berth agent`: the node agent, in the foreground."""

from pathlib import Path

import click

__all__ = ["agent"]


@click.command()
@click.option("--telemetry", default="", metavar="HOST:PORT", help="telemetry-ingest [of the system that runs here]")
@click.option("--node", default="", help="Name of this node [the host's name]")
@click.option("--interval", default="2s", show_default=True, help="Time between reports")
@click.option("--executor", "executors", multiple=True, help="Executor that can start work here; repeat [process]")
@click.option("--triton", default="", metavar="URL", help="Triton server of this node, such as http://127.0.0.1:8000")
@click.option("--topology", "levels", multiple=True, metavar="LEVEL=NAME", help="Such as rack=r07; repeat")
@click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Label; repeat")
@click.option("--token", envvar="BERTH_TOKEN", default="", help="Access token of this node [BERTH_TOKEN]")
@click.option("--context", "context_file", type=click.Path(path_type=Path), metavar="FILE", help="Context file")
def agent(
    telemetry: str,
    node: str,
    interval: str,
    executors: tuple[str, ...],
    triton: str,
    levels: tuple[str, ...],
    labels: tuple[str, ...],
    token: str,
    context_file: Path | None,
) -> int:
    """Report this machine's devices and telemetry, until Ctrl-C: NVIDIA GPUs through NVML, and the CPUs."""
    from berth.agent import run_agent
    from berth.cli.commands.submit import assignments
    from berth.cli.running import run_until_signal
    from berth.embedded.context import Context, context_path
    from berth.embedded.supervisor import node_name
    from berth.jobs import parse_duration
    from berth.observability import configure_logging

    seconds = parse_duration("interval", interval)
    if triton and not triton.startswith(("http://", "https://")):
        raise click.UsageError(f"--triton {triton!r}: write an address such as http://127.0.0.1:8000")
    address = telemetry or Context.load(context_path(context_file)).services["telemetry_ingest"]
    topology, named = assignments("topology", levels), assignments("label", labels)

    configure_logging("agent")

    async def body() -> None:
        click.echo(f"reporting {node or node_name()} to {address}; Ctrl-C ends it")
        await run_agent(
            address,
            node or node_name(),
            token or None,
            seconds,
            executors or ("process",),
            topology,
            named,
            triton,
        )

    return run_until_signal(body)
