"""Kubernetes quantities: the API's own grammar, exactly."""

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import InvalidInput
from berth.kubernetes.quantities import (
    LARGEST,
    milli_at_least,
    milli_at_most,
    parse_quantity,
    units_at_least,
    units_at_most,
)

SUFFIXES = {
    "": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("500m", Fraction(1, 2)), ("1.5Gi", 3 << 29), (".5", Fraction(1, 2)), ("5.", 5), ("+3", 3),
        ("-3", -3), ("100n", Fraction(1, 10**7)),
        ("1E", 10**18), ("1E3", 1000), ("1e3", 1000), ("2e-3", Fraction(2, 1000)), ("12e+2", 1200),
        ("1e9999999", 10**400), (4, 4), (0.5, Fraction(1, 2)),
    ],
)  # fmt: skip
def test_what_the_api_writes(text: object, value: Fraction) -> None:
    assert parse_quantity("cpu", text) == value


@pytest.mark.parametrize(
    "text", ["", " 1", "1 Gi", "1gi", "1K", "Gi", "1e", "1i", ".", "1_000", "0x10", "½", True, None]
)
def test_anything_else_is_refused_by_name(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"allocatable\.cpu: .* write a Kubernetes quantity"):
        parse_quantity("allocatable.cpu", text)


@given(
    sign=st.sampled_from(["", "+", "-"]),
    whole=st.integers(0, 10**20),
    digits=st.one_of(st.none(), st.text("0123456789", max_size=9)),
    suffix=st.sampled_from(sorted(SUFFIXES)),
)
def test_every_number_with_every_suffix(sign: str, whole: int, digits: str | None, suffix: str) -> None:
    text = f"{sign}{whole}{'' if digits is None else '.' + digits}{suffix}"
    fraction = Fraction(int(digits), 10 ** len(digits)) if digits else Fraction(0)
    expected = (whole + fraction) * SUFFIXES[suffix] * (-1 if sign == "-" else 1)
    assert parse_quantity("x", text) == expected
    # What is asked for is never rounded away, and what there is never rounded up.
    if abs(expected) * 1000 < LARGEST:
        assert units_at_most("x", text) <= expected <= units_at_least("x", text) < units_at_most("x", text) + 2
        assert milli_at_most("x", text) <= expected * 1000 <= milli_at_least("x", text) < milli_at_most("x", text) + 2
    else:
        assert abs(milli_at_least("x", text)) <= LARGEST


@given(st.text(max_size=12))
def test_no_text_breaks_it(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse_quantity("x", text)
