"""A request in, an effect out: the whole of what profile-store does."""

import asyncio
import base64
import difflib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from berth.catalogue import Accelerator, load
from berth.errors import InvalidInput, NotFound
from profile_store.domain.importers import Hints, Imported, detect, read, unpacked
from profile_store.domain.importers.document import NO_HINTS
from profile_store.domain.importers.outcome import summary, without_unknown
from profile_store.domain.prediction.analysis import checked
from profile_store.domain.prediction.question import Forecast, Question, forecast, kept_questions, to_keep
from profile_store.domain.prediction.roofline import PRECISIONS
from profile_store.domain.profile import Profile, ProfileKey, Provenance, best_fitting, rank
from profile_store.domain.repository import ProfileRepository
from profile_store.domain.validation import Catalogue, known_accelerator, validate

__all__ = ["Page", "ProfileStore", "Ranking", "Stored"]

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Stored:
    changed: int
    unchanged: int
    skipped: tuple[str, ...] = ()
    format: str = ""
    taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    profiles: tuple[Profile, ...]
    next_token: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """`suggestions` are the nearest names where the workload is unknown."""

    profiles: tuple[Profile, ...]
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileStore:
    """`announced` is called after each commit that announced something, `measured` with the workloads that were
    measured; `now` is the clock."""

    profiles: ProfileRepository
    catalogue: Catalogue
    now: Callable[[], datetime]
    entries: Callable[[], Sequence[Accelerator]] = load
    announced: Callable[[], None] = field(default=lambda: None)
    measured: Callable[[Collection[str]], None] = field(default=lambda _: None)

    async def put(self, profiles: Sequence[Profile], places: Sequence[str] = ()) -> Stored:
        """Stores all of them or, with InvalidInput that names their `places`, none."""
        sound = validate(_given(profiles), self.catalogue, now=self.now(), places=places)
        changed = await self.profiles.put(sound)
        if changed:
            self.announced()
            self.measured({one.key.workload for one in sound if one.provenance == Provenance.MEASURED})
        return Stored(changed, len(sound) - changed)

    async def renew(self, workloads: Collection[str]) -> int:
        """Makes anew the kept predictions of workloads of which more was measured; gives how many changed."""
        profiles = await self.profiles.alone()
        asked = kept_questions([one for one in profiles if one.key.workload in workloads])
        renewed: list[Profile] = []
        for question, names in asked.items():
            found = await asyncio.to_thread(forecast, question, profiles, self.entries())
            if found is not None:
                renewed += [one for one in to_keep(found.predictions) if one.key.accelerator in names]
        changed = await self.profiles.put_predicted(validate(renewed, self.catalogue, now=self.now())) if renewed else 0
        if changed:
            self.announced()
        return changed

    async def import_document(self, format: str, content: bytes, source: str, hints: Hints = NO_HINTS) -> Stored:
        """Stores all that the document holds or, with InvalidInput, nothing. Twice changes nothing.

        Format "" is found out from the content.
        """
        # A thread: a large file must not hold up the other calls.
        found, imported = await asyncio.to_thread(self._read, format, content, source, hints)
        stored = await self.put(imported.profiles, imported.places)
        return Stored(stored.changed, stored.unchanged, imported.skipped, found, imported.remarks)

    def _read(self, format: str, content: bytes, source: str, hints: Hints) -> tuple[str, Imported]:
        if hints.accelerator:
            # Once, not for each row.
            known_accelerator(self.catalogue, hints.accelerator)
        content = unpacked(content)
        format = format.strip().casefold() or (detect(content) if content.strip() else "yaml")
        imported = read(format, content, source, hints)
        if imported.public:
            imported = without_unknown(imported, self.catalogue)
        remarks = (*imported.remarks, *summary(imported.profiles, self.catalogue))
        return format, replace(imported, remarks=remarks)

    async def seed(self, content: bytes, source: str) -> int:
        """Adds the profiles of Berth's own format whose key is free: what was learnt since is kept."""
        return await self.keep(read("yaml", content, source).profiles)

    async def keep(self, profiles: Sequence[Profile]) -> int:
        """Adds those whose key is free; InvalidInput where one is wrong. How many were added."""
        sound = validate(_given(profiles), self.catalogue, now=self.now())
        added = await self.profiles.add_missing(sound)
        if added:
            self.announced()
        return added

    async def get(self, workload: str, accelerator: str, devices: int) -> Profile:
        """The best fitting profile measured alone. `devices` 0 is 1. Raises NotFound with what there is instead."""
        _readable("workload", workload)
        name = known_accelerator(self.catalogue, accelerator).name
        key = ProfileKey(workload, name, _devices(devices) or 1)
        others = await self.profiles.of_workload(workload, 0)
        for found in best_fitting(others):
            if (found.key.accelerator, found.key.devices) == (name, key.devices):
                return found
        if others:
            places = ", ".join(f"{one.key.accelerator} x {one.key.devices}" for one in rank(best_fitting(others))[:8])
            raise NotFound(f"workload: {workload!r}: not measured on {name} x {key.devices}; it was on {places}")
        near = await self._nearest_workloads(workload)
        hint = f"did you mean {', '.join(near)}?" if near else "`berth get profiles` lists what there is"
        raise NotFound(f"workload: {workload!r}: unknown; {hint}")

    async def list(self, workload: str, accelerator: str, page_size: int, page_token: str) -> Page:
        """Profiles in their keys' order, co-located ones included; "" takes any."""
        _readable("workload", workload)
        if page_size < 0:
            raise InvalidInput.of("page_size", page_size, f"0 for {DEFAULT_PAGE}, or 1 to {LARGEST_PAGE}")
        count = min(page_size or DEFAULT_PAGE, LARGEST_PAGE)
        name = known_accelerator(self.catalogue, accelerator).name if accelerator else ""
        after = _read_token(page_token) if page_token else None
        # One more than asked tells whether there is a next page.
        found = await self.profiles.page(workload=workload, accelerator=name, after=after, count=count + 1)
        more = len(found) > count
        return Page(found[:count], _write_token(found[count - 1].key) if more else "")

    async def query(self, workload: str, devices: int) -> Ranking:
        """Where the workload runs fastest. `devices` 0 takes any number."""
        _readable("workload", workload)
        if not workload:
            raise InvalidInput.of("workload", workload, "name the workload")
        found = await self.profiles.of_workload(workload, _devices(devices))
        if found:
            return Ranking(rank(best_fitting(found)))
        return Ranking((), await self._nearest_workloads(workload))

    async def predict(self, question: Question, *, keep: bool = False) -> tuple[Forecast, tuple[str, ...]]:
        """What the workload would do, and the nearest names where it is unknown. `keep` stores predictions as
        profiles, so that placement hears of them; what was measured or declared stays."""
        _readable("workload", question.workload)
        if not question.workload:
            raise InvalidInput.of("workload", question.workload, "name the workload")
        name = known_accelerator(self.catalogue, question.accelerator).name if question.accelerator else ""
        for what, value in (("batch_size", question.batch_size), ("concurrency", question.concurrency)):
            if value is not None and value < 1:
                raise InvalidInput.of(what, value, "a whole number, at least 1")
        if question.power_limit_watts is not None and not 0 < question.power_limit_watts <= 1e5:
            raise InvalidInput.of("power_limit_watts", question.power_limit_watts, "W, above 0 up to 100000")
        if question.work is not None:
            question = checked(question)
        asked = replace(question, accelerator=name, devices=_devices(question.devices) or 1)
        profiles = await self.profiles.alone()
        known = dict.fromkeys([*PRECISIONS, *sorted({one.precision.casefold() for one in profiles if one.precision})])
        if question.precision and question.precision.casefold() not in known:
            raise InvalidInput.of("precision", question.precision, f"one of {', '.join(known)}")
        # A thread: a library of thousands of runs takes a second.
        found = await asyncio.to_thread(forecast, asked, profiles, self.entries())
        if found is None:
            return Forecast(()), await self._nearest_workloads(question.workload)
        if keep:
            kept = validate(to_keep(found.predictions), self.catalogue, now=self.now())
            if await self.profiles.put_predicted(kept):
                self.announced()
        return found, ()

    async def republish(self) -> int:
        """Announces everything again, for consumers whose broker forgot."""
        count = await self.profiles.announce_all()
        if count:
            self.announced()
        return count

    async def _nearest_workloads(self, workload: str) -> tuple[str, ...]:
        names = await self.profiles.workloads()
        if workload in names:
            return ()
        known = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(workload.casefold(), known, n=3, cutoff=0.5)
        return tuple(known[name] for name in close)


def _given(profiles: Sequence[Profile]) -> Sequence[Profile]:
    """Raises InvalidInput where one claims to be observed."""
    if any(one.provenance == Provenance.OBSERVED for one in profiles):
        remedy = "the store's own word of jobs that ran here: say measured"
        raise InvalidInput.of("provenance", "observed", remedy)
    return profiles


def _readable(field: str, text: str) -> None:
    if not text.isprintable():
        raise InvalidInput.of(field, ascii(text), "printable characters only")


def _devices(devices: int) -> int:
    if devices < 0:
        raise InvalidInput.of("devices", devices, "a count of devices, at least 1")
    return devices


def _write_token(key: ProfileKey) -> str:
    row = [key.workload, key.accelerator, key.devices, key.co_located_with, key.configuration]
    return base64.urlsafe_b64encode(json.dumps(row).encode()).decode()


def _read_token(token: str) -> ProfileKey:
    try:
        match json.loads(base64.urlsafe_b64decode(token.encode())):
            case [str(workload), str(accelerator), int(devices), str(partner), str(configuration)] if (
                0 <= devices < 2**31 and "\x00" not in workload + accelerator + partner + configuration
            ):
                return ProfileKey(workload, accelerator, devices, partner, configuration)
    except (ValueError, RecursionError):
        pass
    raise InvalidInput.of("page_token", token, "give back next_page_token as it came, or leave it out")
