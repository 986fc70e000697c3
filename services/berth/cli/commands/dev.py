"""`berth dev`."""

from pathlib import Path

import click

__all__ = ["dev"]


@click.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path(".berth"),
    show_default=True,
    envvar="BERTH_STATE_DIR",
    help="Folder of everything that is kept [BERTH_STATE_DIR]",
)
@click.option(
    "--fleet",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=60,
    default=0,
    metavar="[NODES]",
    help="Also emulate a mixed fleet, of 60 nodes unless said otherwise",
)
@click.option("--fresh", is_flag=True, help="Forget what the state folder holds")
@click.option("--no-agent", is_flag=True, help="Do not take this machine as a node")
@click.option("--triton", is_flag=True, help="Start a Triton server too, which serves models on this machine")
@click.option("--kafka", default="", metavar="HOST:PORT", help="Use this broker instead of the embedded one")
@click.option("--postgres", default="", metavar="DSN", help="Use this server instead of the embedded one")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Also schedule this Kubernetes cluster: pods with schedulerName berth",
)
@click.option("--context", "context_file", type=click.Path(path_type=Path), help="Where to write the context file")
def dev(
    state: Path,
    fleet: int,
    fresh: bool,
    no_agent: bool,
    triton: bool,
    kafka: str,
    postgres: str,
    kubeconfig: Path | None,
    context_file: Path | None,
) -> int:
    """Start the whole system on this machine and keep it running, until Ctrl-C."""  # fmt: skip
    from berth.cli.running import run_until_signal
    from berth.embedded.supervisor import EmbeddedSystem, Options

    options = Options(
        state, fresh=fresh, agent=not no_agent, fleet_nodes=fleet, kafka=kafka, postgres=postgres,
        triton=triton, kubeconfig=kubeconfig, context_file=context_file,
    )  # fmt: skip

    async def body() -> None:
        async with EmbeddedSystem(options, say=click.echo) as system:
            context = system.context
            click.echo("ready; Ctrl-C ends it")
            click.echo(f"  gRPC     {', '.join(f'{name} {at}' for name, at in context.services.items())}")
            click.echo(f"  metrics  {', '.join(f'http://{at}/metrics' for at in context.http.values())}")
            click.echo(f"  Kafka    {context.kafka}")
            if system.triton is not None:
                click.echo(f"  Triton   {system.triton.address}")
            click.echo(f"  logs     {context.state_dir}/logs")
            click.echo("in another terminal: berth get nodes; berth submit --kind batch -- echo hello")
            await system.watch()

    return run_until_signal(body)
