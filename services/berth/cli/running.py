"""Runs something that ends at Ctrl-C, with everything it started ended before."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import click

__all__ = ["run_until_signal"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(body: Callable[[], Awaitable[None]]) -> int:
    """Runs `body`; a signal cancels it, and further ones change nothing. Gives the exit code, 130 after a signal."""
    from berth.embedded.supervisor import SystemFailed

    stopped = False

    async def guarded() -> None:
        task = asyncio.ensure_future(body())

        def stop() -> None:
            nonlocal stopped
            if not stopped:
                stopped = True
                click.echo("\nending", err=True)
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, stop)
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise
        finally:
            # From here to the end of the process a signal must not raise in the middle of the clean-up.
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    try:
        asyncio.run(guarded())
    except SystemFailed as error:
        click.echo(f"{click.style('error', fg='red', bold=True)}: {error}", err=True)
        return 1
    return 130 if stopped else 0
