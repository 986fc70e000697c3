"""How many requests a server may join: of what the job wishes and the program's shapes."""

from dataclasses import dataclass

from berth.backends.base import Refused
from berth.models.artefact import Artefact

__all__ = ["Batching", "batching_of", "whole_number"]


@dataclass(frozen=True, slots=True)
class Batching:
    """`most`: rows in a batch, 0 where requests are not joined. `rows`: as many as the program takes, 0: any."""

    most: int = 0
    rows: int = 0


def whole_number(name: str, text: str, least: int) -> int:
    """Raises Refused."""
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= 65536:
        raise Refused(f"{name}: {text!r}: write a whole number from {least} to 65536")
    return int(text)


def batching_of(artefact: Artefact, wished: int) -> Batching:
    """Requests are joined along the first dimension, which all inputs and outputs must share. Raises Refused."""
    if wished == 0:
        return Batching()
    firsts = {one.shape[0] if one.shape else -1 for one in (*artefact.inputs, *artefact.outputs)}
    if len(firsts) != 1 or -1 in firsts:
        raise Refused(
            f"max_batch_size: '{wished}': inputs and outputs of {artefact.name} share no first dimension along which "
            "requests could be joined: leave max_batch_size out"
        )
    rows = firsts.pop()
    if rows is None:
        return Batching(wished)
    if wished > rows:
        raise Refused(
            f"max_batch_size: '{wished}': {artefact.name} takes {rows} rows at once: write at most {rows}, or export "
            "it with a free first dimension"
        )
    return Batching(wished, rows)
