"""Starts and ends the embedded Kafka broker (see `kafka_broker`)."""

import asyncio
import secrets
import subprocess
from pathlib import Path

from berth.embedded.process import Child, end_all, module_command, spawn

__all__ = ["EmbeddedKafka"]


class EmbeddedKafka:
    """One broker. `bootstrap` is its address, `log_id` names its log: both new with each start."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.child: Child | None = None
        self.bootstrap = ""
        self.log_id = ""

    async def start(self) -> str:
        """Starts it and gives its address. Raises RuntimeError."""
        self.child = spawn(
            "kafka", module_command("berth.embedded.kafka_broker"), log=self._log, stdout=subprocess.PIPE
        )
        stdout = self.child.popen.stdout
        assert stdout is not None
        line = await asyncio.to_thread(stdout.readline)
        if not line:
            raise RuntimeError(f"the embedded Kafka broker ended while it started:\n{self.child.last_lines()}")
        self.bootstrap = line.decode().strip()
        self.log_id = f"embedded-{secrets.token_hex(6)}"
        return self.bootstrap

    def stop(self) -> None:
        """Ends it. Blocks."""
        if self.child is not None:
            end_all([self.child], grace_seconds=1.0)
            if self.child.popen.stdout is not None:
                self.child.popen.stdout.close()
