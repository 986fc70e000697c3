"""Verdicts on devices as DeviceTaintRules of the cluster, so that whoever allocates there keeps away from them too.

Only devices that a ResourceSlice lists have rules; their id is "<driver>/<pool>/<device>". Level-triggered: each round
compares the rules that are ours, of the pools that this instance plans, with what its cores say now. A rule of a device
that was not heard of since a take-over stays: silence is not health.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from berth.kubernetes import names
from berth.kubernetes.client import Kubernetes, KubernetesError, Object, Unanswered
from berth.kubernetes.informer import Informer
from placement_engine.domain.readouts import DeviceVerdict, DeviceVerdicts, VerdictKind
from placement_engine.planner import Planner

__all__ = ["DeviceTaints", "changes", "slice_devices", "taint_rule"]

log = structlog.get_logger(__name__)

RULES = "/apis/resource.k8s.io/v1/devicetaintrules"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
OURS = f"{names.MANAGED_BY}=berth"
KEYS = {
    VerdictKind.FAULTY: names.TAINT_FAULTY,
    VerdictKind.THROTTLED: names.TAINT_THROTTLED,
    VerdictKind.HOT: names.TAINT_HOT,
}
MOST_CHANGES = 100
"""Of one round: a hot row of racks must not flood the API server."""


def taint_rule(verdict: DeviceVerdict, pool: str, *, fault_effect: str) -> Object:
    """`fault_effect` is for faults; heat and throttling pass, and what runs there is not evicted for them."""
    driver, device_pool, device = split(verdict.device_id)
    digest = hashlib.sha256(verdict.device_id.encode()).hexdigest()[:16]
    effect = fault_effect if verdict.kind is VerdictKind.FAULTY else "NoSchedule"
    taint = {"key": KEYS[verdict.kind], "effect": effect}
    if verdict.code:
        taint["value"] = f"error-{verdict.code}"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {
            "name": f"berth-{verdict.kind.value}-{digest}",
            "labels": {names.MANAGED_BY: "berth"},
            "annotations": {
                names.DEVICE: verdict.device_id,
                names.POOL: pool,
                names.VERDICT: f"on node {verdict.node}: {verdict.message}",
            },
        },
        "spec": {"deviceSelector": {"driver": driver, "pool": device_pool, "device": device}, "taint": taint},
    }


def split(device_id: str) -> tuple[str, str, str]:
    """Driver, pool and device; a pool's name may hold slashes."""
    driver, _, rest = device_id.partition("/")
    pool, _, device = rest.rpartition("/")
    return driver, pool, device


def slice_devices(slices: Iterable[Object]) -> set[str]:
    """Ids of the devices that the ResourceSlices list."""
    found: set[str] = set()
    for one in slices:
        spec = one["spec"]
        found.update(
            f"{spec['driver']}/{spec['pool']['name']}/{device['name']}" for device in spec.get("devices") or ()
        )
    return found


@dataclass(frozen=True, slots=True)
class Changes:
    create: tuple[Object, ...] = ()
    replace: tuple[Object, ...] = ()
    """With the version that they replace."""
    delete: tuple[Object, ...] = ()


def changes(
    ours: Mapping[str, Object], verdicts: Mapping[str, DeviceVerdicts], listed: set[str], *, fault_effect: str
) -> Changes:
    """What makes the rules say what the verdicts say. `ours` by name, `verdicts` by the pool of Berth, `listed`: the
    devices of slices. Rules of pools that are not among `verdicts` are left alone."""
    wanted = {
        rule["metadata"]["name"]: rule
        for pool, all_of_pool in verdicts.items()
        for verdict in all_of_pool.found
        if verdict.device_id in listed
        for rule in [taint_rule(verdict, pool, fault_effect=fault_effect)]
    }
    replace = []
    delete = []
    for name, rule in sorted(ours.items()):
        metadata = rule["metadata"]
        marks = metadata.get("annotations") or {}
        pool = marks.get(names.POOL, "")
        if pool not in verdicts:
            continue
        new = wanted.pop(name, None)
        if new is None:
            if marks.get(names.DEVICE) not in verdicts[pool].unheard:
                delete.append(rule)
        elif _said(rule) != _said(new):
            new["metadata"]["resourceVersion"] = metadata["resourceVersion"]
            replace.append(new)
    return Changes(tuple(wanted[name] for name in sorted(wanted)), tuple(replace), tuple(delete))


def _said(rule: Object) -> tuple[Any, ...]:
    """Without what the server fills in: the time of the taint."""
    taint = rule["spec"]["taint"]
    return rule["spec"]["deviceSelector"], taint["key"], taint.get("value", ""), taint["effect"]


class DeviceTaints:
    def __init__(
        self,
        client: Kubernetes,
        planners: Mapping[str, Planner],
        *,
        fault_effect: str,
        every_seconds: float = 5.0,
    ) -> None:
        self._client = client
        self._planners = planners
        self._fault_effect = fault_effect
        self._every = every_seconds
        self._listed: set[str] | None = None
        self.slices = Informer(client, SLICES, self._slices_changed, optional=True)
        self.rules = Informer(client, RULES, label_selector=OURS, optional=True)

    def _slices_changed(self, _old: Object | None, _new: Object | None) -> None:
        self._listed = None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.slices.run())
            tasks.create_task(self.rules.run())
            tasks.create_task(self._rounds())

    async def _rounds(self) -> None:
        await self.slices.synced.wait()
        await self.rules.synced.wait()
        while True:
            try:
                await self.round()
            except (Unanswered, KubernetesError) as error:
                log.warning("device taint rules will be looked at again", error=str(error))
            await asyncio.sleep(self._every)

    async def round(self) -> None:
        verdicts = {
            pool: planner.engine.device_verdicts() for pool, planner in self._planners.items() if planner.active
        }
        if not verdicts or not self.rules.served:
            return
        if self._listed is None:
            self._listed = slice_devices(self.slices.objects.values())
        found = changes(self.rules.objects, verdicts, self._listed, fault_effect=self._fault_effect)
        for rule in found.delete[:MOST_CHANGES]:
            await self._write("DELETE", rule)
        for rule in found.replace[:MOST_CHANGES]:
            await self._write("PUT", rule)
        for rule in found.create[:MOST_CHANGES]:
            await self._write("POST", rule)

    async def _write(self, method: Literal["DELETE", "PUT", "POST"], rule: Object) -> None:
        """What is already so (409, 404) shows in the next round."""
        metadata, taint = rule["metadata"], rule["spec"]["taint"]
        path = f"{RULES}/{metadata['name']}"
        try:
            if method == "DELETE":
                await self._client.delete(path, uid=metadata["uid"])
            elif method == "PUT":
                await self._client.put(path, rule)
            else:
                await self._client.post(RULES, rule)
        except KubernetesError as error:
            if not (error.not_found or error.conflict):
                raise
            log.info("device taint rule was changed meanwhile", rule=metadata["name"], error=error.message)
            return
        log.info("device taint rule", change=method, device=metadata["annotations"][names.DEVICE], taint=taint)
