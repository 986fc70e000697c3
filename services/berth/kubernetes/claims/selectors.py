"""CEL selectors of device classes and requests, evaluated by the C++ implementation of CEL (cel-expr-python).

Expressions are type-checked when they are compiled. What Kubernetes adds to CEL and drivers use is here: quantity,
semver, regular expressions. Both types are protobuf messages in canonical form, so that == is CEL's own.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_math, ext_optional, ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from berth.kubernetes.claims.quantities import Version, parse_quantity, parse_version

__all__ = ["Selector", "SelectorError", "attribute_value", "qualified"]

LONGEST_INTEGER = 2**63


class SelectorError(ValueError):
    """An expression that does not compile, or fails on a device: whoever asks with it cannot be served."""


class Selector:
    """One expression over `device`. Made by `Selector.of`, which remembers it."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        try:
            self._program = _environment().compile(expression)
        except RuntimeError as error:
            raise SelectorError(f"CEL compile error: {_first_line(error)}") from error
        kind = self._program.return_type().name()
        if kind not in ("BOOL", "DYN"):
            raise SelectorError(f"CEL compile error: the expression gives {kind.lower()}, it must give a bool")
        self._domains = frozenset(
            name for match in _DOMAIN.finditer(expression) for name in match.groups() if name is not None
        )

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(expression: str) -> "Selector":
        """Raises SelectorError."""
        return Selector(expression)

    def matches(self, driver: str, attributes: Mapping[str, Any], capacity: Mapping[str, Fraction]) -> bool:
        """`attributes`, `capacity`: by qualified name, "<domain>/<name>". Raises SelectorError."""
        device = {
            "driver": driver,
            "allowMultipleAllocations": False,
            "attributes": self._by_domain(attributes, _value),
            "capacity": self._by_domain(capacity, _quantity_message),
        }
        answer = self._program.eval(data={"device": device})
        if answer.type().name() == "ERROR":
            raise SelectorError(f"CEL runtime error: {_first_line(answer.value())}")
        chosen = answer.value()
        if not isinstance(chosen, bool):
            raise SelectorError(f"CEL runtime error: the expression gave {chosen!r}, it must give a bool")
        return chosen

    def _by_domain(self, values: Mapping[str, Any], made: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
        # A domain that a device has nothing of is an empty map, not an error: so Kubernetes has it. An expression that
        # looks into a domain and also asks whether it is there hears that it is.
        found: dict[str, dict[str, Any]] = {domain: {} for domain in self._domains}
        for name, value in values.items():
            domain, _, key = name.partition("/")
            found.setdefault(domain, {})[key] = made(value)
        return found


def qualified(name: str, driver: str) -> str:
    """An attribute's or capacity's name with its domain: the driver's, unless it says another."""
    return name if "/" in name else f"{driver}/{name}"


def attribute_value(attribute: Mapping[str, Any]) -> Any:
    """Of a DeviceAttribute: an int, bool, str or Version, or a tuple of them. Raises ValueError for another kind."""
    for kind in ("int", "bool", "string", "version"):
        if kind in attribute:
            return _scalar(kind, attribute[kind])
        if kind + "s" in attribute:
            return tuple(_scalar(kind, one) for one in attribute[kind + "s"])
    raise ValueError(f"an attribute of a kind that Berth does not know: {sorted(attribute)}")


def _scalar(kind: str, value: Any) -> Any:
    return parse_version(value) if kind == "version" else value


_DOMAIN = re.compile(r"""\b(?:attributes|capacity)\s*(?:\[\s*\??\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\]|\.\s*\??(\w+))""")

_MESSAGE = "kubernetes.berth.Comparable"


@lru_cache(maxsize=1)
def _comparable() -> tuple[Any, type[Any]]:
    """A pool, and the message type that carries a quantity or a version through CEL.

    One type for both: the runtime does not tell overloads for two messages apart.
    """
    package, _, name = _MESSAGE.rpartition(".")
    file = descriptor_pb2.FileDescriptorProto(name="berth/kubernetes/cel.proto", package=package, syntax="proto3")
    message = file.message_type.add(name=name)
    for number, field in enumerate(("quantity", "version"), start=1):
        message.field.add(
            name=field,
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()  # type: ignore[no-untyped-call]
    pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    return pool, message_factory.GetMessageClass(pool.FindMessageTypeByName(_MESSAGE))  # type: ignore[no-untyped-call]


def _quantity_message(value: Fraction) -> Any:
    return _comparable()[1](quantity=str(value))


def _version_message(value: Version) -> Any:
    return _comparable()[1](version=str(value))


def _value(value: Any) -> Any:
    if isinstance(value, Version):
        return _version_message(value)
    return [_value(one) for one in value] if isinstance(value, tuple) else value


def _amount(message: Any) -> Fraction:
    if not message.quantity:
        raise ValueError("no such overload: a version is no quantity")
    return Fraction(message.quantity)


def _version(message: Any) -> Version:
    if not message.version:
        raise ValueError("no such overload: a quantity is no version")
    return parse_version(message.version)


def _orders(left: Any, right: Any) -> tuple[Any, Any]:
    """What two quantities, or two versions, sort by."""
    if left.quantity:
        return _amount(left), _amount(right)
    return _version(left).order, _version(right).order


def _compare(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


def _valid(parse: Callable[..., object], *arguments: object) -> bool:
    try:
        parse(*arguments)
    except ValueError:
        return False
    return True


def _as_integer(message: Any) -> int:
    amount = _amount(message)
    if amount.denominator != 1 or not -LONGEST_INTEGER <= amount < LONGEST_INTEGER:
        raise ValueError("cannot convert value to integer")
    return int(amount)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found.group() if found else ""


@lru_cache(maxsize=1)
def _environment() -> cel.Env:
    kind = cel.Type
    pool = _comparable()[0]
    quantity = version = kind(_MESSAGE)
    overloads: dict[str, list[cel.Overload]] = {}

    def add(
        name: str, result: cel.Type, parameters: list[cel.Type], made: Callable[..., Any], *, member: bool = False
    ) -> None:
        known = overloads.setdefault(name, [])
        known.append(cel.Overload(f"{name.lower()}_{len(known)}", result, parameters, member, made))

    add("quantity", quantity, [kind.STRING], lambda text: _quantity_message(parse_quantity(text)))
    add("isQuantity", kind.BOOL, [kind.STRING], lambda text: _valid(parse_quantity, text))
    add("semver", version, [kind.STRING], lambda text: _version_message(parse_version(text)))
    add(
        "semver",
        version,
        [kind.STRING, kind.BOOL],
        lambda text, normal: _version_message(parse_version(text, normalise=normal)),
    )
    add("isSemver", kind.BOOL, [kind.STRING], lambda text: _valid(parse_version, text))
    add(
        "isSemver",
        kind.BOOL,
        [kind.STRING, kind.BOOL],
        lambda text, normal: _valid(partial(parse_version, normalise=normal), text),
    )
    pair = [quantity, quantity]
    add("compareTo", kind.INT, pair, lambda a, b: _compare(*_orders(a, b)), member=True)
    add("isGreaterThan", kind.BOOL, pair, lambda a, b: _compare(*_orders(a, b)) > 0, member=True)
    add("isLessThan", kind.BOOL, pair, lambda a, b: _compare(*_orders(a, b)) < 0, member=True)
    for part in ("major", "minor", "patch"):
        add(part, kind.INT, [version], lambda a, part=part: getattr(_version(a), part), member=True)
    for name, sign in (("add", 1), ("sub", -1)):
        add(
            name,
            quantity,
            [quantity, quantity],
            lambda a, b, sign=sign: _quantity_message(_amount(a) + sign * _amount(b)),
            member=True,
        )
        add(
            name,
            quantity,
            [quantity, kind.INT],
            lambda a, b, sign=sign: _quantity_message(_amount(a) + sign * b),
            member=True,
        )
    add("sign", kind.INT, [quantity], lambda a: _compare(_amount(a), 0), member=True)
    add("asInteger", kind.INT, [quantity], _as_integer, member=True)
    add(
        "isInteger",
        kind.BOOL,
        [quantity],
        lambda a: _amount(a).denominator == 1 and abs(_amount(a)) < LONGEST_INTEGER,
        member=True,
    )
    add("asApproximateFloat", kind.DOUBLE, [quantity], lambda a: float(_amount(a)), member=True)
    add("find", kind.STRING, [kind.STRING, kind.STRING], _find, member=True)
    return cel.NewEnv(
        descriptor_pool=pool,
        variables={"device": kind.Map(kind.STRING, kind.DYN)},
        functions=[cel.FunctionDecl(name, known) for name, known in overloads.items()],
        extensions=[
            ext_strings.ExtStrings(),
            ext_optional.ExtOptional(),
            ext_bindings.ExtBindings(),
            ext_math.ExtMath(),
        ],
    )


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0].removesuffix(" [INVALID_ARGUMENT]")
