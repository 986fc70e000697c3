"""The table of mutants fits the core, and the simulation notices a handful of them."""

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, source, try_out

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
HANDFUL = ("capacity", "elastic-minimum", "undo", "heat-floor")


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_the_core(mutant: Mutant) -> None:
    """Its text stands there exactly once, and what comes of it is still Python."""
    compile(source(mutant), mutant.file, "exec")
    assert mutant.new != mutant.old


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", HANDFUL)
def test_the_simulation_notices(name: str) -> None:
    outcome = try_out(BY_NAME[name], seeds=200)
    assert outcome.noticed, outcome.by


@pytest.mark.timeout(300)
def test_a_core_that_is_whole_passes() -> None:
    """A change that breaks no rule is not noticed: it is the rules that fail, not the running in a copy."""
    whole = Mutant("whole", "engine.py", '"""The placement core: events in, decisions out.', '"""Events.', "nothing")
    outcome = try_out(whole, seeds=20)
    assert not outcome.noticed, outcome.by
