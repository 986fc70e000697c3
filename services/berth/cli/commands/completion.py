"""`berth completion`."""

import click

__all__ = ["completion"]

INSTALL = {
    "bash": "# Load it: source <(berth completion bash)",
    "zsh": "# Load it: source <(berth completion zsh)",
    "fish": "# Load it: berth completion fish | source",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(INSTALL)))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash:  source <(berth completion bash)
    zsh:   source <(berth completion zsh)
    fish:  berth completion fish | source
    """
    from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

    from berth.cli.main import root

    class Bash(BashComplete):
        def _check_version(self) -> None:  # type: ignore[override]
            """The script is printed whatever shells this machine has."""

    kinds: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}
    click.echo(INSTALL[shell])
    click.echo(kinds[shell](root, {}, "berth", "_BERTH_COMPLETE").source())
