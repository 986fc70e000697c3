"""`nodes` of a job file: on which nodes members may sit.

    nodes:
      required:                                  # any of the entries
        - {disk: ssd, zone: [a, b]}              # labels, all of them; of a list any value
        - [{key: cores, operator: Gt, values: [64]}, {key: spot, operator: DoesNotExist}]
      tolerations:
        - {key: team, value: vision, effect: NoSchedule}
        - {operator: Exists}                     # every taint

Operators and effects are Kubernetes' own: In, NotIn, Exists, DoesNotExist, Gt, Lt; Equal, Exists; NoSchedule,
PreferNoSchedule, NoExecute.
"""

from collections.abc import Callable, Mapping
from typing import Any

from berth.v1 import jobs_pb2 as pb

__all__ = ["check_nodes", "read_nodes"]

Fail = Callable[[str, Any, str], None]
Check = Callable[[bool, str, Any, str], None]

OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
LONGEST_KEY = 317
"""Of a label: a domain of 253, a slash, a name of 63."""
MOST = 256


def read_nodes(given: Any, constraints: pb.NodeConstraints, fail: Fail) -> None:
    """From a document; `fail(field, value, remedy)` takes what is wrong, fields from `nodes` on."""
    if not isinstance(given, Mapping):
        fail("nodes", given, "write a mapping with `required`, `tolerations` or both")
        return
    for key in given:
        if key not in ("required", "tolerations"):
            fail(f"nodes.{key}", given[key], "unknown field: known: required, tolerations")
    for position, term in enumerate(_list("nodes.required", given.get("required"), fail)):
        _term(f"nodes.required[{position}]", term, constraints.required.add(), fail)
    for position, one in enumerate(_list("nodes.tolerations", given.get("tolerations"), fail)):
        where = f"nodes.tolerations[{position}]"
        if not isinstance(one, Mapping) or not set(one) <= {"key", "operator", "value", "effect"}:
            fail(where, one, "write a mapping of key, operator, value and effect")
            continue
        constraints.tolerations.add(**{name: _text(one.get(name)) for name in ("key", "operator", "value", "effect")})


def check_nodes(check: Check, where: str, constraints: pb.NodeConstraints) -> None:
    """What constraints must be, from wherever they come; `where` goes before the names of fields."""
    check(len(constraints.required) <= MOST, f"{where}nodes.required", len(constraints.required), f"at most {MOST}")
    for position, term in enumerate(constraints.required):
        at = f"{where}nodes.required[{position}]"
        count = len(term.requirements)
        check(0 < count <= MOST, at, f"{count} requirements", f"write 1 to {MOST}: an entry without matches no node")
        for number, one in enumerate(term.requirements):
            _check_requirement(check, f"{at}[{number}]", one)
    check(
        len(constraints.tolerations) <= MOST, f"{where}nodes.tolerations", len(constraints.tolerations),
        f"at most {MOST}",
    )  # fmt: skip
    for position, toleration in enumerate(constraints.tolerations):
        at = f"{where}nodes.tolerations[{position}]"
        check(
            toleration.operator in ("", "Equal", "Exists"), f"{at}.operator", toleration.operator,
            "write Equal or Exists",
        )  # fmt: skip
        check(
            toleration.effect in ("", *EFFECTS), f"{at}.effect", toleration.effect,
            f"write one of: {', '.join(EFFECTS)}; leave it out for all of them",
        )  # fmt: skip
        exists = toleration.operator == "Exists"
        check(exists or bool(toleration.key), f"{at}.key", "", "name a taint's key, or write operator: Exists")
        check(not (exists and toleration.value), f"{at}.value", toleration.value, "leave it out with Exists")


def _check_requirement(check: Check, at: str, one: pb.NodeRequirement) -> None:
    check(0 < len(one.key) <= LONGEST_KEY, f"{at}.key", one.key, "name a label, such as disk or example.com/disk")
    known = one.operator in OPERATORS
    check(known, f"{at}.operator", one.operator, f"write one of: {', '.join(OPERATORS)}")
    values = len(one.values)
    if one.operator in ("In", "NotIn"):
        check(values > 0, f"{at}.values", "none", "write at least one value")
    elif one.operator in ("Exists", "DoesNotExist"):
        check(values == 0, f"{at}.values", ", ".join(one.values), f"leave it out with {one.operator}")
    elif known:
        whole = values == 1 and one.values[0].removeprefix("-").isdecimal() and one.values[0].isascii()
        check(whole, f"{at}.values", ", ".join(one.values), "write one whole number")


def _term(where: str, given: Any, term: pb.NodeTerm, fail: Fail) -> None:
    if isinstance(given, Mapping):
        for key, value in given.items():
            values = value if isinstance(value, list) else [value]
            term.requirements.add(key=str(key), operator="In", values=[_text(one) for one in values])
        return
    for position, one in enumerate(_list(where, given, fail)):
        if not isinstance(one, Mapping) or not set(one) <= {"key", "operator", "values"}:
            fail(f"{where}[{position}]", one, "write a mapping of key, operator and values")
            continue
        values = _list(f"{where}[{position}].values", one.get("values"), fail)
        term.requirements.add(
            key=_text(one.get("key")), operator=_text(one.get("operator")), values=[_text(value) for value in values]
        )


def _list(where: str, value: Any, fail: Fail) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        fail(where, value, "write a list")
        return []
    return value


def _text(value: Any) -> str:
    """As Kubernetes has labels: `true` of YAML is "true"."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
