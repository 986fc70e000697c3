"""Random histories of the core, each checked by an oracle that keeps its own books.

BERTH_SEEDS says how many, from seed 0 on: 2,500 unless told, 10,000 in `make simulation`.
"""

import os

import pytest

from tests.simulation.history import run

SEEDS = int(os.environ.get("BERTH_SEEDS", "2500"))
BLOCK = 250


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_rule_holds_in_every_history(first: int) -> None:
    for seed in range(first, min(first + BLOCK, SEEDS)):
        try:
            run(seed)
        except Exception as broken:
            pytest.fail(f"seed {seed}: {broken!r}; `python -m tests.simulation.show {seed}` tells the history")


@pytest.mark.parametrize("seed", range(0, 10_000, 500))
def test_the_same_seed_gives_the_same_decisions_byte_for_byte(seed: int) -> None:
    assert repr(run(seed).results).encode() == repr(run(seed).results).encode()
