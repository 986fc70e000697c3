"""The edge: nothing is lost between our dataclass and the contract, and absent stays absent."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from berth import catalogue
from berth.v1 import profiles_pb2 as pb
from profile_store.adapters.encoding import accelerator_message, profile_from, profile_message, records
from profile_store.domain.profile import Profile, ProfileKey
from tests.unit.profile_store.builders import a_profile

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
figures = st.none() | st.floats(allow_nan=False)
profiles = st.builds(
    Profile,
    key=st.builds(ProfileKey, texts, texts, st.integers(0, 2**31 - 1), texts),
    provenance=st.integers(0, 5),
    source=texts,
    task=texts,
    precision=texts,
    software_stack=texts,
    throughput=figures,
    throughput_unit=texts,
    latency_p50_seconds=figures,
    latency_p99_seconds=figures,
    memory_bytes=st.none() | st.integers(-(2**63), 2**63 - 1),
    power_watts=figures,
    peak_power_watts=figures,
    price_per_hour=figures,
    relative_uncertainty=figures,
    measured_at=st.none() | st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    samples=st.integers(0, 2**53),
    operations_by_precision=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3).map(
        lambda shares: tuple(sorted(shares.items()))
    ),
)


@given(profiles)
def test_a_profile_survives_the_wire(profile: Profile) -> None:
    wire = profile_message(profile).SerializeToString()
    assert profile_from(pb.Profile.FromString(wire)) == profile


def test_the_version_is_the_stores_to_give() -> None:
    assert profile_from(pb.Profile(version=9)).version == 0


def test_a_record_carries_key_id_and_type() -> None:
    (record,) = records([a_profile(co_located_with="gpt", version=3)])
    assert (record.topic, record.key) == ("profiles.changed", b"bert|H100-SXM|1|gpt")
    assert record.headers == {
        "content-type": "application/protobuf",
        "ce_specversion": "1.0",
        "ce_id": "bert|H100-SXM|1|gpt@3",
        "ce_type": "berth.v1.Profile",
        "ce_source": "profile-store",
    }
    assert pb.Profile.FromString(record.value).version == 3


def test_unknown_figures_of_an_accelerator_are_absent() -> None:
    entry = catalogue.by_name("G2")
    assert entry is not None
    message = accelerator_message(entry)
    assert {field.name for field, _ in message.ListFields()} == {
        "name",
        "vendor",
        "device_class",
        "stack",
        "tdp_watts",
        "confidence",
        "sources",
        "note",
    }
