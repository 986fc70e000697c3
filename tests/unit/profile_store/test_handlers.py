"""ProfileStore: put, import, seed, get, list, query, on a repository in memory."""

import json
from dataclasses import replace

import pytest

from berth import catalogue
from berth.errors import InvalidInput, NotFound
from profile_store.domain.prediction.question import Question
from profile_store.domain.profile import ProfileKey, Provenance
from profile_store.handlers import ProfileStore, Stored
from tests.unit.profile_store.builders import NOW, TABLE, ProfilesInMemory, a_profile


class Harness:
    def __init__(self) -> None:
        self.memory = ProfilesInMemory()
        self.woken = 0
        self.store = ProfileStore(profiles=self.memory, catalogue=catalogue, now=lambda: NOW, announced=self._wake)

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_only_changes_are_versioned_and_announced(harness: Harness) -> None:
    first = a_profile()
    assert await harness.store.put([first, a_profile("other")]) == Stored(2, 0)
    assert await harness.store.put([first, a_profile("other")]) == Stored(0, 2)
    assert await harness.store.put([replace(first, throughput=101.0), a_profile("other")]) == Stored(1, 1)
    assert [(str(one.key), one.throughput, one.version) for one in harness.memory.announced] == [
        ("bert|H100-SXM|1|", 100.0, 1),
        ("other|H100-SXM|1|", 100.0, 1),
        ("bert|H100-SXM|1|", 101.0, 2),
    ]
    assert harness.woken == 2


async def test_one_bad_profile_stores_none(harness: Harness) -> None:
    with pytest.raises(InvalidInput):
        await harness.store.put([a_profile(), a_profile("b", throughput=-1.0)])
    assert harness.memory.rows == {}


async def test_putting_nothing_is_fine(harness: Harness) -> None:
    assert await harness.store.put([]) == Stored(0, 0)


async def test_an_import_twice_changes_nothing(harness: Harness) -> None:
    content = json.dumps(TABLE).encode()
    first = await harness.store.import_document("gavel", content, "t")
    rows = dict(harness.memory.rows)
    second = await harness.store.import_document("gavel", content, "t")
    assert (first.changed, first.unchanged, len(first.skipped)) == (7, 0, 2)
    assert (second.changed, second.unchanged, second.skipped) == (0, 7, first.skipped)
    assert harness.memory.rows == rows
    assert {key.accelerator for key in rows} == {"V100-16", "K80"}


@pytest.mark.parametrize("kind", ["h100", "V100M16"])
async def test_an_import_with_one_bad_kind_stores_nothing(harness: Harness, kind: str) -> None:
    # "h100" means no one model; V100M16 means the same as v100, with other figures.
    table = {**TABLE, kind: {"('LM (batch size 10)', 1)": {"null": 1.5}}}
    with pytest.raises(InvalidInput):
        await harness.store.import_document("gavel", json.dumps(table).encode(), "t")
    assert harness.memory.rows == {}


async def test_a_seed_never_replaces_what_was_learnt(harness: Harness) -> None:
    seed = (
        b"workloads: [{workload: bert, unit: samples/s, provenance: declared, runs: ["
        b"{accelerator: H100-SXM, throughput: 5}, {accelerator: L4, throughput: 1}]}]"
    )
    await harness.store.put([a_profile()])
    assert await harness.store.seed(seed, "s") == 1
    assert await harness.store.seed(seed, "s") == 0
    # Once for the put, once for the first seed.
    assert harness.woken == 2
    assert {key.accelerator: one.throughput for key, one in harness.memory.rows.items()} == {
        "H100-SXM": 100.0,
        "L4": 1.0,
    }


async def test_get_takes_aliases_and_means_the_profile_alone(harness: Harness) -> None:
    await harness.store.put([a_profile(), a_profile(co_located_with="gpt", throughput=40.0)])
    found = await harness.store.get("bert", "NVIDIA H100 80GB HBM3", 0)
    assert (found.key, found.throughput) == (ProfileKey("bert", "H100-SXM", 1), 100.0)


@pytest.mark.parametrize(
    ("workload", "accelerator", "devices", "message"),
    [
        ("bert", "H100-SXM", 4, "not measured on H100-SXM x 4; it was on H100-SXM x 1"),
        ("bert", "L4", 1, "not measured on L4 x 1"),
        ("brt", "L4", 1, "unknown; did you mean bert"),
        ("zzzz", "L4", 1, "unknown; `berth get profiles`"),
    ],
)
async def test_get_says_what_there_is_instead(
    harness: Harness, workload: str, accelerator: str, devices: int, message: str
) -> None:
    await harness.store.put([a_profile()])
    with pytest.raises(NotFound, match=message):
        await harness.store.get(workload, accelerator, devices)


async def test_bad_questions_are_refused(harness: Harness) -> None:
    store = harness.store
    for question in (
        store.get("bert", "H10", 1),
        store.get("bert", "L4", -1),
        store.get("be\x00rt", "L4", 1),
        store.query("", 1),
        store.query("bert", -1),
        store.query("\x00", 1),
        store.list("", "H10", 0, ""),
        store.list("\x00", "", 0, ""),
        store.list("", "", -1, ""),
        store.list("", "", 0, "%%%"),
        store.list("", "", 0, "WzFd"),
        store.list("", "", 0, "ключ"),
    ):
        with pytest.raises(InvalidInput):
            await question


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_pages_give_each_profile_once_in_order(harness: Harness, size: int) -> None:
    made = [a_profile(f"w{n}", kind, d) for n in range(3) for kind in ("L4", "T4") for d in (1, 8)]
    await harness.store.put(made)
    seen, token = [], ""
    while True:
        page = await harness.store.list("", "", size, token)
        assert len(page.profiles) <= size
        seen += [one.key for one in page.profiles]
        token = page.next_token
        if not token:
            break
    assert seen == sorted(one.key for one in made)


async def test_list_filters(harness: Harness) -> None:
    await harness.store.put([a_profile("a", "L4"), a_profile("a", "T4"), a_profile("b", "T4")])
    page = await harness.store.list("a", "Tesla T4", 0, "")
    assert ([str(one.key) for one in page.profiles], page.next_token) == (["a|T4|1|"], "")


async def test_query_ranks_or_suggests(harness: Harness) -> None:
    await harness.store.put(
        [
            a_profile("bert", "L4", throughput=1.0),
            a_profile("bert", "H100-SXM", throughput=9.0),
            a_profile("bert", "H100-SXM", 8, throughput=70.0),
            a_profile("bert", "L40S", co_located_with="gpt", throughput=99.0),
        ]
    )
    ranked = await harness.store.query("bert", 1)
    assert [(one.key.accelerator, one.key.devices) for one in ranked.profiles] == [("H100-SXM", 1), ("L4", 1)]
    assert [one.key.devices for one in (await harness.store.query("bert", 0)).profiles] == [8, 1, 1]
    assert (await harness.store.query("BERTT", 1)).suggestions == ("bert",)
    # Known, only not with that many devices: no other name is meant.
    assert (await harness.store.query("bert", 3)).suggestions == ()


async def test_republish_announces_everything_again(harness: Harness) -> None:
    assert await harness.store.republish() == 0
    assert harness.woken == 0
    await harness.store.put([a_profile()])
    assert await harness.store.republish() == 1
    assert harness.woken == 2
    assert [one.version for one in harness.memory.announced] == [1, 1]


async def test_nobody_but_the_store_says_observed(harness: Harness) -> None:
    with pytest.raises(InvalidInput, match="provenance: 'observed': the store's own word"):
        await harness.store.put([a_profile(provenance=Provenance.OBSERVED)])
    document = (
        b"workloads: [{workload: w, unit: steps/s, provenance: observed, source: us, "
        b"runs: [{accelerator: L4, throughput: 1}]}]"
    )
    with pytest.raises(InvalidInput, match="observed"):
        await harness.store.import_document("yaml", document, "t")
    assert harness.memory.rows == {}


@pytest.mark.parametrize("rows", ["w,L4,-1,steps/s\n", "w,L4,1,steps/s\nw,T4,-1,steps/s\n", "w,L4,1,\nw,T4,x,\n"])
async def test_an_error_in_a_csv_names_its_line(harness: Harness, rows: str) -> None:
    with pytest.raises(InvalidInput) as failed:
        await harness.store.import_document("csv", f"workload,accelerator,throughput,unit\n{rows}".encode(), "t")
    assert [one.field for one in failed.value.errors] == [f"line {1 + rows.count(chr(10))}.throughput"]


async def test_a_precision_that_nobody_knows_is_refused_by_name(harness: Harness) -> None:
    await harness.store.put([a_profile()])
    with pytest.raises(InvalidInput, match="precision: 'fp7': one of fp64, fp32, fp16, bf16, fp8, fp6"):
        await harness.store.predict(Question(workload=a_profile().key.workload, precision="fp7"))
    await harness.store.predict(Question(workload=a_profile().key.workload, precision="BF16"))
