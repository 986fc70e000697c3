"""The engine's policy from texts: a scenario, an option, the environment."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, get_type_hints

from berth.errors import InvalidInput
from berth.jobs import parse_duration
from placement_engine.domain.policy import Policy, Weights

__all__ = ["parse_policy", "service_policy"]


def parse_policy(given: Mapping[str, Any], base: Policy = Policy()) -> Policy:  # noqa: B008
    """`base` with these fields: numbers, durations ("6m") of `..._seconds`, words of an enum, and `weights` or
    `weights.heat`. Raises InvalidInput."""
    changes: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    for name, value in given.items():
        if name == "weights" and isinstance(value, Mapping):
            weights.update(value)
        elif name.startswith("weights."):
            weights[name.removeprefix("weights.")] = value
        else:
            changes[name] = _field_value(Policy, f"policy.{name}", name, value)
    if weights:
        parsed = {n: _field_value(Weights, f"policy.weights.{n}", n, v) for n, v in weights.items()}
        changes["weights"] = replace(base.weights, **parsed)
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise InvalidInput.of("policy", ", ".join(changes), str(error)) from error


def service_policy(given: Mapping[str, Any], base: Policy) -> Policy:
    """The policy of a running service: that which it can carry out. Raises InvalidInput."""
    policy = parse_policy(given, base)
    if policy.resize_gangs:
        remedy = "leave it out: a running service does not carry out changes of a gang's size; `berth simulate` does"
        raise InvalidInput.of("policy.resize_gangs", "true", remedy)
    return policy


def _field_value(kind: type, where: str, name: str, value: Any) -> Any:
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if not dataclasses.is_dataclass(hints[field.name])]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput.of(where, value, f"{hint}known: {', '.join(known)}")
    wanted = hints[name]
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        words = [one.value for one in wanted]
        if value not in words:
            raise InvalidInput.of(where, value, f"write one of: {', '.join(words)}")
        return wanted(value)
    if wanted is bool:
        if str(value).lower() not in ("true", "false"):
            raise InvalidInput.of(where, value, "write true or false")
        return str(value).lower() == "true"
    try:
        return int(value) if wanted is int else float(value)
    except (TypeError, ValueError) as error:
        if isinstance(value, str) and name.endswith("_seconds"):
            return parse_duration(where, value)
        raise InvalidInput.of(where, value, "write a number") from error
