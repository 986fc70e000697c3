"""What is published: coalesced, dated by receive time, unknown left unknown."""

from telemetry_ingest.domain.board import Board, NodeSnapshot, SourceReading
from telemetry_ingest.domain.model import DeviceReading, NodeReading


def said(at: float, *devices: tuple[str, DeviceReading], wall: float | None = None, **more: object) -> SourceReading:
    node = more.pop("node", NodeReading())
    return SourceReading(devices, node, wall if wall is not None else 1000 + at, at, **more)  # type: ignore[arg-type]


HEAT = DeviceReading(temperature_celsius=50.0)


def test_only_the_newest_is_published_once() -> None:
    board = Board()
    board.put("n", "u", said(1, ("a", DeviceReading())))
    board.put("n", "u", said(2, ("a", HEAT)))
    assert board.drain() == [NodeSnapshot("n", 1, 1002, None, (("a", HEAT),), NodeReading())]
    assert board.drain() == []
    board.put("n", "u", said(3, ("a", HEAT)))
    board.undrain(["n"])
    assert [snapshot.sequence for snapshot in board.drain()] == [2]


def test_the_record_is_as_old_as_its_oldest_source_with_devices() -> None:
    board = Board(keep_seconds=30)
    board.put("n", "gpu", said(1, ("a", HEAT)))
    board.put("n", "host", said(20, node=NodeReading(cpu_utilisation=0.5)))
    (snapshot,) = board.drain()
    assert (snapshot.received_at, snapshot.reading.cpu_utilisation) == (1001, 0.5)
    # The silent one is dropped when it is too old to say anything of the present.
    board.put("n", "host", said(40, node=NodeReading(cpu_utilisation=0.6)))
    (snapshot,) = board.drain()
    assert (snapshot.received_at, snapshot.devices) == (1040, ())


def test_wall_clocks_that_run_backwards_change_no_order() -> None:
    board = Board()
    board.put("n", "u", said(1, ("a", DeviceReading()), wall=5000, source_time=9000.0))
    board.put("n", "u", said(2, ("a", HEAT), wall=100, source_time=1.0))
    (snapshot,) = board.drain()
    assert (snapshot.received_at, snapshot.source_time, snapshot.devices) == (100, 1.0, (("a", HEAT),))


def test_a_chassis_fills_only_what_devices_do_not_say() -> None:
    board = Board()
    own = DeviceReading(temperature_celsius=40.0, utilisation=0.5)
    board.put("n", "rdu", said(1, ("a", own), ("b", DeviceReading())))
    board.put("n", "box", said(1, shared=DeviceReading(temperature_celsius=61.0, healthy=False)))
    (snapshot,) = board.drain()
    assert dict(snapshot.devices) == {
        "a": DeviceReading(temperature_celsius=40.0, utilisation=0.5, healthy=False),
        "b": DeviceReading(temperature_celsius=61.0, healthy=False),
    }


def test_a_nodes_power_is_its_cpus_and_all_devices_or_unknown() -> None:
    def power(*devices: tuple[str, DeviceReading], **node: float) -> float | None:
        board = Board()
        board.put("n", "gpu", said(1, *devices))
        board.put("n", "host", said(1, node=NodeReading(**node)))
        return board.drain()[0].reading.power_watts

    watts = DeviceReading(power_watts=300.0)
    assert power(("a", watts), ("n/cpu", DeviceReading(power_watts=100.0)), cpu_watts=100.0) == 400.0
    assert power(("a", watts), ("b", HEAT), cpu_watts=100.0) is None
    assert power(("a", watts), cpu_watts=100.0, power_watts=900.0) == 900.0
    assert power(("a", watts)) is None


def test_dropped_sources_say_nothing_more() -> None:
    board = Board()
    board.put("n", "u1", said(1, ("a", HEAT)))
    board.put("n", "agent", said(1, ("b", HEAT)))
    board.put("m", "u2", said(1, ("c", HEAT)))
    board.retain({"n": frozenset()}, always="agent")
    assert [(one.node, [name for name, _ in one.devices]) for one in board.drain()] == [("n", ["b"])]
    board.drop("n")
    board.undrain(["n"])
    assert board.drain() == []


def test_of_two_sources_with_devices_the_older_dates_the_record() -> None:
    board = Board(keep_seconds=30)
    board.put("n", "gpu", said(1, ("a", HEAT)))
    board.put("n", "cpu", said(6, ("n/cpu", HEAT)))
    (snapshot,) = board.drain()
    assert (snapshot.received_at, [name for name, _ in snapshot.devices]) == (1001, ["a", "n/cpu"])
