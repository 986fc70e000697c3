"""Profiles for tests, and a repository in memory that keeps the port's promises."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from profile_store.domain.profile import PREDICTED, Profile, ProfileKey, Provenance

NOW = datetime(2026, 3, 1, tzinfo=UTC)

TABLE = {
    "v100": {
        "('ResNet-50 (batch size 64)', 1)": {
            "null": 5.5,
            "('LM (batch size 10)', 1)": [4.0, 2.5],
            "('ResNet-50 (batch size 64)', 1)": [3.0, 3.0],
        },
        "('LM (batch size 10)', 1)": {"null": 3.25, "('ResNet-50 (batch size 64)', 1)": [2.5, 4.0]},
        "('LM (batch size 10)', 4)": {"null": 9.75},
    },
    "k80": {"('LM (batch size 10)', 1)": {"null": 0.5, "('ResNet-50 (batch size 64)', 1)": [0.0, 0.0]}},
    "k80_unconsolidated": {"('LM (batch size 10)', 2)": {"null": 0.25}},
}


def a_profile(
    workload: str = "bert",
    accelerator: str = "H100-SXM",
    devices: int = 1,
    co_located_with: str = "",
    **changes: Any,
) -> Profile:
    made = Profile(
        key=ProfileKey(workload, accelerator, devices, co_located_with),
        provenance=Provenance.MEASURED,
        source="a benchmark of ours",
        throughput=100.0,
        throughput_unit="samples/s",
    )
    return replace(made, **changes)


@dataclass
class ProfilesInMemory:
    rows: dict[ProfileKey, Profile] = field(default_factory=dict)
    announced: list[Profile] = field(default_factory=list)

    async def put(self, profiles: Sequence[Profile]) -> int:
        changed = [one for one in profiles if self._differs(one)]
        self._store(changed)
        return len(changed)

    async def add_missing(self, profiles: Sequence[Profile]) -> int:
        missing = [one for one in profiles if one.key not in self.rows]
        self._store(missing)
        return len(missing)

    async def put_predicted(self, profiles: Sequence[Profile]) -> int:
        free = [one for one in profiles if one.key not in self.rows or self.rows[one.key].provenance in PREDICTED]
        return await self.put(free)

    def _differs(self, profile: Profile) -> bool:
        old = self.rows.get(profile.key)
        return old is None or replace(old, version=0) != replace(profile, version=0)

    def _store(self, profiles: Sequence[Profile]) -> None:
        for one in profiles:
            old = self.rows.get(one.key)
            self.rows[one.key] = replace(one, version=(old.version if old else 0) + 1)
            self.announced.append(self.rows[one.key])

    async def get(self, key: ProfileKey) -> Profile | None:
        return self.rows.get(key)

    async def page(
        self, *, workload: str, accelerator: str, after: ProfileKey | None, count: int
    ) -> tuple[Profile, ...]:
        keys = [
            key
            for key in sorted(self.rows)
            if workload in ("", key.workload)
            and accelerator in ("", key.accelerator)
            and (after is None or key > after)
        ]
        return tuple(self.rows[key] for key in keys[:count])

    async def of_workload(self, workload: str, devices: int) -> tuple[Profile, ...]:
        return tuple(
            one
            for key, one in sorted(self.rows.items())
            if key.workload == workload and devices in (0, key.devices) and not key.co_located_with
        )

    async def alone(self) -> tuple[Profile, ...]:
        return tuple(one for _, one in sorted(self.rows.items()) if not one.key.co_located_with)

    async def workloads(self) -> tuple[str, ...]:
        return tuple(sorted({key.workload for key in self.rows}))

    async def announce_all(self) -> int:
        self.announced.extend(self.rows.values())
        return len(self.rows)
