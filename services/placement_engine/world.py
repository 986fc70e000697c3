"""What every instance hears: fleet, telemetry, profiles, queues. Feeds the cores of all pools."""

from collections.abc import Iterable

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from berth import catalogue
from berth.kafka import Record
from berth.v1 import fleet_pb2, profiles_pb2, telemetry_pb2
from placement_engine.adapters import translate
from placement_engine.adapters.profiles import Profiles
from placement_engine.domain.engine import Engine

__all__ = ["World"]

log = structlog.get_logger(__name__)

SAMPLES = Counter("berth_device_samples_total", "Device samples that reached the cores.")


class World:
    """The facts as last heard, and who wants to know. Not persistent: topics and database hold it."""

    def __init__(self) -> None:
        self.nodes: dict[str, fleet_pb2.Node] = {}
        self.unsaved: dict[str, fleet_pb2.Node] = {}
        self.queues: dict[str, fleet_pb2.Queue] = {}
        self._order: dict[str, tuple[str, int]] = {}
        self._profiles = Profiles()
        self._engines: list[Engine] = []
        self.generation = 0
        """Raised with every change of the fleet."""

    def attach(self, engine: Engine) -> None:
        """A new core hears everything that is known."""
        engine.set_accelerators([translate.accelerator_from(one) for one in catalogue.load()])
        engine.set_profiles([translate.profile_from(one) for one in self._profiles.fitting()])
        for node in self.nodes.values():
            self._tell_node(engine, node)
        engine.set_queues([translate.queue_from(one) for one in self.queues.values()])
        self._engines.append(engine)

    def detach(self, engine: Engine) -> None:
        if engine in self._engines:
            self._engines.remove(engine)

    def set_queues(self, queues: Iterable[fleet_pb2.Queue]) -> None:
        fresh = {queue.name: queue for queue in queues}
        if fresh == self.queues:
            return
        self.queues = fresh
        for engine in self._engines:
            engine.set_queues([translate.queue_from(one) for one in fresh.values()])

    def add_node(self, node: fleet_pb2.Node) -> None:
        """Takes a node that is newer than the one known."""
        known = self.nodes.get(node.name)
        if known is not None and known.version >= node.version:
            return
        self.generation += 1
        self.nodes[node.name] = node
        self.unsaved[node.name] = node
        for engine in self._engines:
            self._tell_node(engine, node)

    @staticmethod
    def _tell_node(engine: Engine, node: fleet_pb2.Node) -> None:
        if node.removed:
            engine.remove_node(node.name)
        else:
            engine.apply_node(translate.node_from(node))

    async def on_nodes(self, records: list[Record]) -> None:
        for record in records:
            if not record.value:
                continue
            try:
                node = fleet_pb2.Node.FromString(record.value)
            except DecodeError as error:
                log.warning("fleet record passed over", offset=record.offset, error=str(error))
                continue
            if node.name:
                self.add_node(node)

    async def on_telemetry(self, records: list[Record]) -> None:
        """Last value by (boot id, sequence): an older record of the same boot is dropped."""
        latest: dict[str, telemetry_pb2.NodeTelemetry] = {}
        for record in records:
            try:
                telemetry = telemetry_pb2.NodeTelemetry.FromString(record.value)
            except DecodeError as error:
                log.warning("telemetry record passed over", offset=record.offset, error=str(error))
                continue
            boot, sequence = self._order.get(telemetry.node, ("", 0))
            if telemetry.boot_id == boot and telemetry.sequence <= sequence:
                continue
            self._order[telemetry.node] = (telemetry.boot_id, telemetry.sequence)
            latest[telemetry.node] = telemetry
        for telemetry in latest.values():
            sample = translate.sample_from(telemetry)
            SAMPLES.inc(len(sample.devices))
            for engine in self._engines:
                engine.apply_sample(sample)

    async def on_profiles(self, records: list[Record]) -> None:
        for record in records:
            if not record.value:
                continue
            try:
                profile = profiles_pb2.Profile.FromString(record.value)
            except DecodeError as error:
                log.warning("profile record passed over", offset=record.offset, error=str(error))
                continue
            fitting = self._profiles.hear(profile)
            if fitting is None:
                continue
            for engine in self._engines:
                engine.put_profile(translate.profile_from(fitting))
