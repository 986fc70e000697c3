"""What a person is told of an import: accelerators that the catalogue lacks, and what was taken."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from berth.errors import InvalidInput
from profile_store.domain.importers.document import Imported, LeftOut
from profile_store.domain.profile import Profile
from profile_store.domain.validation import Catalogue, known_accelerator

__all__ = ["summary", "without_unknown"]

SHOWN = 6


def without_unknown(imported: Imported, catalogue: Catalogue) -> Imported:
    """Leaves out what ran on accelerators that the catalogue lacks. Raises InvalidInput where nothing stays."""
    left, kept = LeftOut(), []
    for profile in imported.profiles:
        name = profile.key.accelerator
        if catalogue.resolve(name) is not None:
            kept.append(profile)
            continue
        near = catalogue.nearest(name)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        left.add(f"{name} is not in the accelerator catalogue{hint}")
    if not kept:
        known_accelerator(catalogue, imported.profiles[0].key.accelerator if imported.profiles else "")
        raise InvalidInput.of("content", "0 profiles", "nothing in it can be kept")
    return replace(
        imported, profiles=tuple(kept), places=(), skipped=(*imported.skipped, *left.sentences("configurations"))
    )


def summary(profiles: Sequence[Profile], catalogue: Catalogue) -> tuple[str, ...]:
    """How many profiles of which workloads, on which accelerators: two sentences."""

    def called(name: str) -> str:
        entry = catalogue.resolve(name)
        return entry.name if entry else name

    return tuple(
        f"{len(counts)} {what if len(counts) > 1 else what.removesuffix('s')}: {_most(counts)}"
        for what, counts in (
            ("workloads", Counter(one.key.workload for one in profiles)),
            ("accelerators", Counter(called(one.key.accelerator) for one in profiles)),
        )
        if counts
    )


def _most(counts: Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} ({count})" for name, count in ordered[:SHOWN])
    return shown if len(ordered) <= SHOWN else f"{shown} and {len(ordered) - SHOWN} more"
