"""Which backends there are, and which of them runs an artefact on an accelerator.

In this order: the operator's (`BERTH_BACKENDS`), those of installed packages (entry points of the group
`berth.backends`), Berth's own. Where several can, the first does. A package's backend that cannot be loaded is said and
skipped; the operator's file is taken whole or refused.
"""

import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from berth import catalogue
from berth.backends.base import Backend
from berth.backends.commands import CommandBackend
from berth.backends.declaration import read_backends
from berth.catalogue import Accelerator
from berth.models.artefact import Artefact

__all__ = [
    "BUILT_IN",
    "GROUP",
    "Choice",
    "Offer",
    "Registry",
    "accelerators_for",
    "backends",
    "choose",
    "on",
    "reasons_by_accelerator",
]

GROUP = "berth.backends"
BUILT_IN = {
    "xla": "berth.backends.xla:backend",
    "onnx": "berth.backends.onnx:backend",
    "triton-python": "berth.backends.triton_python:backend",
}
"""Name -> what makes it, called without arguments."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend, and where it is from. `missing`: what it needs and this machine lacks; "" where nothing is known."""

    backend: Backend
    origin: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Registry:
    """`problems`: what was to be a backend and is none, each a sentence."""

    offers: tuple[Offer, ...]
    problems: tuple[str, ...] = ()

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(offer.backend for offer in self.offers)

    def by_name(self, name: str) -> Backend | None:
        """The backend that `Prepared.backend` names."""
        return next((one for one in self.backends if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """`backend` None: none can; `reasons` then says why, by backend."""

    accelerator: str
    backend: Backend | None
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def backends(declared: Path | None = None, state: Path | None = None) -> Registry:
    """All there are. `declared`: the operator's file; `state`: the service's state folder, where models are served.

    Raises InvalidInput where the operator's file is wrong.
    """
    folder = (state or Path(".berth")) / "backends"
    offers = []
    if declared is not None:
        offers += [_offer(CommandBackend(one, folder), f"operator: {declared}") for one in read_backends(declared)]
    problems = []
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else point.module
        try:
            offers.append(_offer(_checked(point.load()()), f"package: {package}"))
        except Exception as error:
            # A stranger's code: whatever it raises must not take the others with it.
            problems.append(f"{point.name}: {point.value!r}: cannot be loaded, mend or remove {package}: {error!r}")
    for name, made_by in BUILT_IN.items():
        module, _, attribute = made_by.partition(":")
        try:
            offers.append(_offer(getattr(importlib.import_module(module), attribute)(), "built in"))
        except ImportError as error:
            problems.append(f"{name}: {module!r}: cannot be imported, install what it needs: {error}")
    unique: dict[str, Offer] = {}
    for offer in offers:
        first = unique.setdefault(offer.backend.name, offer)
        if first is not offer:
            problems.append(f"{offer.backend.name}: {offer.origin!r}: the name is taken by {first.origin}: rename one")
    return Registry(tuple(unique.values()), tuple(problems))


def choose(artefact: Artefact, accelerator: str | Accelerator, among: Sequence[Backend]) -> Choice:
    """The first backend that can run it there. A check command of the operator's may block for moments."""
    entry = catalogue.by_name(accelerator) if isinstance(accelerator, str) else accelerator
    if entry is None:
        near = ", ".join(catalogue.nearest(str(accelerator))) or "none"
        return Choice(
            str(accelerator), None, {"": (f"accelerator: {accelerator!r}: not in the catalogue; near: {near}",)}
        )
    reasons = {}
    for backend in among:
        verdict = backend.can_run(artefact, entry)
        if verdict.can:
            return Choice(entry.name, backend)
        reasons[backend.name] = tuple(verdict.reasons)
    return Choice(entry.name, None, reasons or {"": ("no backend is installed: berth backends lists them",)})


def reasons_by_accelerator(
    artefact: Artefact, among: Sequence[Backend], accelerators: Iterable[Accelerator] | None = None
) -> dict[str, Choice]:
    """The choice for each accelerator of the catalogue, by its name; those with a backend are where it may go."""
    entries = catalogue.load() if accelerators is None else accelerators
    return {entry.name: choose(artefact, entry, among) for entry in entries}


def accelerators_for(artefact: Artefact, among: Sequence[Backend]) -> tuple[str, ...]:
    """Catalogue names on which some backend runs it: what a job that serves it may ask for. Empty: nowhere."""
    return tuple(name for name, choice in reasons_by_accelerator(artefact, among).items() if choice.backend is not None)


def on(accelerator: str, among: Sequence[Backend]) -> tuple[Backend, ...]:
    """Those that serve its stack at all: whom to ask what is served there, where it is not known who serves it."""
    entry = catalogue.by_name(accelerator)
    return tuple(one for one in among if entry is not None and entry.stack in one.stacks)


def _offer(backend: Backend, origin: str) -> Offer:
    unavailable = getattr(backend, "unavailable", None)
    return Offer(backend, origin, (unavailable() if callable(unavailable) else None) or "")


def _checked(made: Backend) -> Backend:
    """Raises TypeError where it is no backend."""
    lacking = [
        name for name in ("can_run", "prepare", "serve", "look", "release") if not callable(getattr(made, name, None))
    ]
    lacking += [name for name in ("name", "stacks") if not hasattr(made, name)]
    if lacking or not isinstance(made.name, str):
        raise TypeError(f"{type(made).__name__} has no {', '.join(lacking) or 'text as its name'}")
    return made
