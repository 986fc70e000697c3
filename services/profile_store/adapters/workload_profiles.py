"""Objects WorkloadProfile of the cluster, taken into the store.

Each generation of an object is put once: what a benchmark reports later under the same key replaces it, as it does with
any other profile. What was put before and is missing, as in a new database, is added again. An object that is deleted
leaves its profile: what was measured stays known.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from berth.errors import FieldError, InvalidInput
from berth.jobs import parse_quantity
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.custom_resources import WORKLOAD_PROFILES, StatusWriter, in_object_terms, ready_condition
from berth.kubernetes.informer import Informer
from berth.postgres import TRANSIENT
from profile_store.domain.profile import Profile, ProfileKey, Provenance
from profile_store.handlers import ProfileStore

__all__ = ["WorkloadProfiles", "profile_of"]

log = structlog.get_logger(__name__)

NUMBERS = {
    "throughput": "throughput",
    "latency_p50_seconds": "latencyP50Seconds",
    "latency_p99_seconds": "latencyP99Seconds",
    "power_watts": "powerWatts",
    "peak_power_watts": "peakPowerWatts",
    "price_per_hour": "pricePerHour",
    "relative_uncertainty": "relativeUncertainty",
}
TEXTS = {
    "task": "task",
    "precision": "precision",
    "software_stack": "softwareStack",
    "throughput_unit": "throughputUnit",
    "source": "source",
}

RETRIED: tuple[type[BaseException], ...] = (Unanswered, KubernetesError, *TRANSIENT)


def profile_of(thing: Object) -> Profile:
    """Not validated by the store's rules. Raises InvalidInput where the spec cannot be read."""
    spec = thing.get("spec") or {}
    try:
        return _profile(spec)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidInput(
            [FieldError("spec", str(spec), f"a value is missing or of the wrong type: {error!r}")]
        ) from error


def _profile(spec: Mapping[str, Any]) -> Profile:
    provenance = str(spec["provenance"]).upper()
    texts: dict[str, Any] = {field: str(spec.get(name, "")) for field, name in TEXTS.items()}
    figures: dict[str, Any] = {field: float(spec[name]) for field, name in NUMBERS.items() if name in spec}
    if "memory" in spec:
        figures["memory_bytes"] = round(parse_quantity("spec.memory", spec["memory"]))
    if "measuredAt" in spec:
        figures["measured_at"] = datetime.fromisoformat(spec["measuredAt"])
    return Profile(
        key=ProfileKey(
            spec["workload"], spec["accelerator"], int(spec.get("devices", 1)), spec.get("coLocatedWith", "")
        ),
        provenance=Provenance[provenance] if provenance in Provenance.__members__ else 0,
        samples=int(spec.get("samples", 0)),
        **texts,
        **figures,
    )


class WorkloadProfiles:
    """`resync_seconds`: how often the store is asked whether it still has all of them."""

    def __init__(
        self,
        client: Kubernetes,
        store: ProfileStore,
        *,
        now: Callable[[], datetime],
        resync_seconds: float = 300.0,
        again_seconds: float = 2.0,
    ) -> None:
        self._store = store
        self._now = now
        self._again = again_seconds
        self._statuses = StatusWriter(client, most=1_000_000)
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self.objects = Informer(
            client, WORKLOAD_PROFILES, self._changed, resync_seconds=resync_seconds, optional=True
        )  # fmt: skip

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        # A status that was written comes back; only a spec, or a resync, is work.
        if old is None or old is new or old["metadata"].get("generation") != new["metadata"].get("generation"):
            self._due[new["metadata"]["name"]] = None
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.objects.run())
            tasks.create_task(self._take_all())

    async def _take_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                name = next(iter(self._due))
                thing = self.objects.objects.get(name)
                try:
                    if thing is not None:
                        self._statuses.begin()
                        await self.take(thing)
                except RETRIED as error:
                    log.warning("profile of the cluster will be taken again", profile=name, error=repr(error))
                    await asyncio.sleep(self._again)
                else:
                    if self.objects.objects.get(name) is thing:
                        self._due.pop(name, None)

    async def take(self, thing: Object) -> None:
        metadata = thing["metadata"]
        generation = metadata.get("generation", 0)
        name = metadata["name"]
        try:
            profile = profile_of(thing)
            if (thing.get("status") or {}).get("observedGeneration") == generation:
                await self._store.keep([profile])
            else:
                await self._store.put([profile])
                log.info("profile is declared by the cluster", profile=name, key=str(profile.key))
        except InvalidInput as error:
            ready, reason, message = False, "Refused", in_object_terms(error, "profile", name)
        else:
            ready, reason, message = True, "Stored", "stored"
        condition = ready_condition(thing, ready=ready, reason=reason, message=message, now=self._now())
        await self._statuses.write(
            WORKLOAD_PROFILES, thing, {"observedGeneration": generation, "conditions": [condition]}
        )  # fmt: skip
