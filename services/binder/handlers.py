"""A decision in, an intent or a release on record: all in the inbox's transaction.

Bytes that are no PlacementDecided, and decisions that break the contract, are given back as dead letters.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from berth.errors import InvalidInput
from berth.kafka import DeadLetter, Record
from berth.postgres import Connection
from binder.domain.intake import Command

__all__ = ["Intake"]

Decode: TypeAlias = Callable[[Record], Command]
Apply: TypeAlias = Callable[[Connection, Sequence[Command]], Awaitable[None]]


class Intake:
    """`decode` raises `undecodable` or InvalidInput; `apply` writes a batch's commands in order."""

    def __init__(self, decode: Decode, undecodable: type[Exception], apply: Apply) -> None:
        self._decode = decode
        self._undecodable = undecodable
        self._apply = apply

    async def placements_decided(self, connection: Connection, records: list[Record]) -> Sequence[DeadLetter]:
        commands: list[Command] = []
        dead: list[DeadLetter] = []
        for record in records:
            try:
                commands.append(self._decode(record))
            except self._undecodable as error:
                dead.append(DeadLetter(record, "UNDECODABLE", str(error)))
            except InvalidInput as error:
                dead.append(DeadLetter(record, error.code, str(error)))
        if commands:
            await self._apply(connection, commands)
        return dead
