"""What a pod asks for, by Kubernetes' rule.

Containers and sidecars (init containers that are restarted always) run side by side; an init container runs beside the
sidecars that were started before it. So a pod needs the larger of (containers + all sidecars) and (each init container
+ the sidecars before it), and its overhead on top. Requests of the whole pod (`spec.resources`) stand for their sum.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.kubernetes.client import Object
from berth.kubernetes.quantities import LARGEST, parse_quantity

__all__ = ["Requests", "requests_of"]

Amounts = dict[str, Fraction]
NONE = Fraction(0)


@dataclass(frozen=True, slots=True)
class Requests:
    """`devices`: extended resources and how many; `others`: resources that are neither, such as hugepages."""

    cpu_milli: int
    memory_bytes: int
    devices: Mapping[str, int]
    others: tuple[str, ...] = ()


def requests_of(pod: Object) -> Requests:
    """Raises InvalidInput with every quantity that cannot be read."""
    spec = pod.get("spec") or {}
    errors: list[FieldError] = []
    main: Amounts = {}
    for position, container in enumerate(spec.get("containers") or ()):
        _add(main, _asked(f"spec.containers[{position}].resources", container.get("resources"), errors))
    sidecars: Amounts = {}
    highest: Amounts = {}
    for position, container in enumerate(spec.get("initContainers") or ()):
        asked = _asked(f"spec.initContainers[{position}].resources", container.get("resources"), errors)
        beside = sidecars if container.get("restartPolicy") == "Always" else dict(sidecars)
        _add(beside, asked)
        for name, amount in beside.items():
            highest[name] = max(highest.get(name, NONE), amount)
    _add(main, sidecars)
    total = {name: max(main.get(name, NONE), highest.get(name, NONE)) for name in main | highest}
    total |= _asked("spec.resources", spec.get("resources"), errors)
    _add(total, _read("spec.overhead", spec.get("overhead"), errors))
    if errors:
        raise InvalidInput(errors)
    whole = {name: min(LARGEST, math.ceil(amount)) for name, amount in sorted(total.items()) if amount > 0}
    return Requests(
        cpu_milli=min(LARGEST, math.ceil(total.get("cpu", NONE) * 1000)),
        memory_bytes=whole.get("memory", 0),
        devices={name: amount for name, amount in whole.items() if "/" in name},
        others=tuple(name for name in whole if "/" not in name and name not in ("cpu", "memory")),
    )


def _asked(field: str, resources: Any, errors: list[FieldError]) -> Amounts:
    """Requests; where only a limit is given, that."""
    resources = resources or {}
    limits = _read(f"{field}.limits", resources.get("limits"), errors)
    return limits | _read(f"{field}.requests", resources.get("requests"), errors)


def _read(field: str, given: Any, errors: list[FieldError]) -> Amounts:
    amounts: Amounts = {}
    for name, written in (given or {}).items():
        try:
            amount = parse_quantity(f"{field}.{name}", written)
        except InvalidInput as error:
            errors.extend(error.errors)
            continue
        if amount < 0:
            errors.append(FieldError(f"{field}.{name}", str(written), "write 0 or more"))
        else:
            amounts[name] = amount
    return amounts


def _add(sum_of: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        sum_of[name] = sum_of.get(name, NONE) + amount
