"""Ten thousand random histories of the core, each checked by an oracle that keeps its own books."""

import pytest

from tests.simulation.history import run
from tests.simulation.oracle import Broken

BLOCK = 500


@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", range(20))
def test_every_rule_holds_in_every_history(block: int) -> None:
    for seed in range(BLOCK * block, BLOCK * (block + 1)):
        try:
            run(seed)
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}; `python -m tests.simulation.show {seed}` tells the history")


@pytest.mark.parametrize("seed", range(0, 10_000, 250))
def test_the_same_seed_gives_the_same_decisions_byte_for_byte(seed: int) -> None:
    assert repr(run(seed).results).encode() == repr(run(seed).results).encode()
