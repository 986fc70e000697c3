"""On which nodes members may sit: conditions on labels, and taints that are tolerated, as Kubernetes has both.

The rules are those of the API (core/v1 NodeSelectorTerm, Toleration): the terms are "any of", the requirements of a
term "all of", and a term without requirements matches nothing. "NotIn" and "DoesNotExist" match a node without the
label; "Gt" and "Lt" compare whole numbers and match nothing else. A taint of effect NoSchedule or NoExecute keeps
away who does not tolerate it; PreferNoSchedule keeps nobody away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ANYWHERE",
    "KEEPING_AWAY",
    "NAME_KEY",
    "NodeConstraints",
    "NodeRequirement",
    "Taint",
    "Toleration",
    "first_not_tolerated",
    "matches",
    "selects",
    "tolerates",
]

NAME_KEY = "metadata.name"
"""This key stands for the node's name, not for a label."""
KEEPING_AWAY = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Taint:
    """Keeps work away from a node, unless it is tolerated."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Toleration:
    """An empty key with "Exists" tolerates every taint; an empty effect every effect; "" is "Equal"."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class NodeRequirement:
    """`operator`: In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator == "In" and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        if not self.values:
            return f"{self.key} {self.operator}"
        return f"{self.key} {self.operator} {', '.join(self.values)}"


@dataclass(frozen=True, slots=True)
class NodeConstraints:
    """`required`: any of the terms, each of them all of its requirements; empty: every node."""

    required: tuple[tuple[NodeRequirement, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    @property
    def selector(self) -> str:
        """For a person."""
        return " or ".join(" and ".join(map(str, term)) or "nothing" for term in self.required)


ANYWHERE = NodeConstraints()


def matches(requirement: NodeRequirement, value: str | None) -> bool:
    """Whether a node whose label has the value meets it; None: it has no such label."""
    operator, values = requirement.operator, requirement.values
    if operator == "In":
        return value is not None and value in values
    if operator == "NotIn":
        return value is None or value not in values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator in ("Gt", "Lt") and value is not None and len(values) == 1:
        have, limit = _whole(value), _whole(values[0])
        if have is None or limit is None:
            return False
        return have > limit if operator == "Gt" else have < limit
    return False


def selects(constraints: NodeConstraints, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a node of that name with these labels is among the required ones."""
    return not constraints.required or any(
        bool(term) and all(matches(one, name if one.key == NAME_KEY else labels.get(one.key)) for one in term)
        for term in constraints.required
    )


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.operator in ("", "Equal") and toleration.value == taint.value


def first_not_tolerated(constraints: NodeConstraints, taints: tuple[Taint, ...]) -> Taint | None:
    """The taint that keeps the work away; None: none does."""
    for taint in taints:
        if taint.effect in KEEPING_AWAY and not any(tolerates(one, taint) for one in constraints.tolerations):
            return taint
    return None


def _whole(text: str) -> int | None:
    """A number as Go's ParseInt of base 10 takes it, of 64 bits."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 30:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None
