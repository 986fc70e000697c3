"""What the store needs of its database."""

from collections.abc import Sequence
from typing import Protocol

from profile_store.domain.profile import Profile, ProfileKey

__all__ = ["ProfileRepository"]


class ProfileRepository(Protocol):
    """Profiles by key. What changes is announced in the same transaction, or neither happens."""

    async def put(self, profiles: Sequence[Profile]) -> int:
        """Stores all or none; gives how many were new or other than before. Only those get a new version."""
        ...

    async def add_missing(self, profiles: Sequence[Profile]) -> int:
        """Stores those whose key is free; gives how many."""
        ...

    async def put_predicted(self, profiles: Sequence[Profile]) -> int:
        """Stores those whose key is free or holds a prediction; gives how many were new or other than before."""
        ...

    async def get(self, key: ProfileKey) -> Profile | None: ...

    async def page(
        self, *, workload: str, accelerator: str, after: ProfileKey | None, count: int
    ) -> tuple[Profile, ...]:
        """Up to `count` profiles past `after`, in the keys' order; "" takes any."""
        ...

    async def of_workload(self, workload: str, devices: int) -> tuple[Profile, ...]:
        """Those measured alone; `devices` 0 takes any number."""
        ...

    async def alone(self) -> tuple[Profile, ...]:
        """All that were measured, declared or predicted alone on their devices."""
        ...

    async def workloads(self) -> tuple[str, ...]: ...

    async def announce_all(self) -> int:
        """Announces every profile again; gives how many. 0 while earlier announcements still wait."""
        ...
