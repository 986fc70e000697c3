"""The `berth` command: which commands there are, and how it ends.

Exit codes: 0 done, 1 failed, 2 misuse. A command's module is imported when the command is called, so that
`berth --help` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Sequence

import click

__all__ = ["COMMANDS", "main", "root"]

# Name -> (attribute of berth.cli.commands.<module>, one line of help), in the order of `berth --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "Show the whole system on this machine, in about a minute"),
    "dev": ("dev:dev", "Start the whole system on this machine and keep it running"),
    "submit": ("submit:submit", "Submit jobs from a file, or a command"),
    "get": ("get:get", "List jobs, nodes, devices, queues or decisions"),
    "describe": ("describe:describe", "Show one job, node or queue in full"),
    "explain": ("explain:explain", "Say why a job is where it is, or why it waits"),
    "logs": ("logs:logs", "Print what a job wrote"),
    "cancel": ("cancel:cancel", "Cancel jobs"),
    "wait": ("wait:wait", "Wait until jobs are bound or finished"),
    "top": ("top:top", "Show live memory, heat and power of nodes or devices"),
    "trace": ("trace:trace", "Show where a job's time went, as a waterfall"),
    "apply": ("apply:apply", "Create or change queues, pools and static nodes"),
    "model": ("model:model", "Analyse a model, see which accelerators take it, and package it"),
    "profiles": ("profiles:profiles", "What workloads do on which accelerator: import, predict, bench, roofline"),
    "backends": ("backends:backends", "List what compiles and serves models"),
    "load": ("load:load", "Replay a real trace of jobs onto its fleet"),
    "whatif": ("whatif:whatif", "Run the present queue forward, as it is and changed"),
    "simulate": ("simulate:simulate", "Run the engine offline: published traces, scenarios, what-if"),
    "debug": ("debug:debug", "Dump a running engine, and replay its decisions offline"),
    "audit": ("audit:audit", "Check the invariants on the database itself"),
    "agent": ("agent:agent", "Report this machine's devices and telemetry"),
    "device-plugin": ("device_plugin:device_plugin", "Advertise this node's devices to its kubelet"),
    "token": ("token:token", "Make an access token"),
    "completion": ("completion:completion", "Print the shell completion script"),
    "version": ("version:version", "Print the version"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(f"berth.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def root() -> None:
    """Berth places jobs on a mixed fleet of accelerators, binds each exactly once, and can say why.

    Start with `berth demo`. Every command takes --help.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and ends the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; gives the exit code."""
    # Children are started while gRPC's threads run; without this it remarks on each.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        code = root.main(
            args=list(arguments) if arguments is not None else None, prog_name="berth", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone, as with `| head`: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from berth.cli.failures import report

        return report(error)


if __name__ == "__main__":
    main()
