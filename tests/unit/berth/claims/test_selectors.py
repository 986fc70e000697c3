"""CEL over devices, as Kubernetes has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.kubernetes.claims.quantities import parse_quantity, parse_version
from berth.kubernetes.claims.selectors import Selector, SelectorError

DRIVER = "gpu.example.com"
ATTRIBUTES = {
    f"{DRIVER}/productName": "NVIDIA H100",
    f"{DRIVER}/index": 3,
    f"{DRIVER}/healthy": True,
    f"{DRIVER}/driverVersion": parse_version("570.86.15-rc.1"),
    "resource.kubernetes.io/pcieRoot": "pci0000:01",
}
CAPACITY = {f"{DRIVER}/memory": parse_quantity("80Gi")}
GPU = f'device.attributes["{DRIVER}"]'
MEMORY = f'device.capacity["{DRIVER}"].memory'


def matches(expression: str) -> bool:
    return Selector.of(expression).matches(DRIVER, ATTRIBUTES, CAPACITY)


@pytest.mark.parametrize(
    "expression",
    [
        f'device.driver == "{DRIVER}"',
        f'{GPU}.productName.startsWith("NVIDIA") && {GPU}.index > 2 && {GPU}.healthy',
        f'{MEMORY}.compareTo(quantity("80Gi")) == 0 && {MEMORY} == quantity("81920Mi")',
        f'{MEMORY}.isGreaterThan(quantity("40Gi")) && {MEMORY}.isLessThan(quantity("0.1Ti"))',
        f'{MEMORY}.sub(quantity("79Gi")).asInteger() == 1073741824 && {MEMORY}.add(1).sign() == 1',
        'isQuantity("1.5G") && !isQuantity("200K") && !quantity("500m").isInteger()',
        f'{GPU}.driverVersion.isLessThan(semver("570.86.15")) && {GPU}.driverVersion.major() == 570',
        f'{GPU}.driverVersion == semver("v570.86.15-rc.1", true) && isSemver("1.2", true) && !isSemver("1.2")',
        'device.attributes["resource.kubernetes.io"].pcieRoot.matches("^pci[0-9]+:01$")',
        'device.attributes["resource.kubernetes.io"].pcieRoot.find("[0-9]+") == "0000"',
        # Nothing is known of a domain: an empty map, as of a domain that the device has.
        '!has(device.attributes["nic.example.com"].speed)',
        '!("nic.example.com" in device.attributes)',
        f'{GPU}.?nothing.orValue("else") == "else"',
        f"cel.bind(gpu, {GPU}, gpu.index == 3 && gpu.healthy)",
        f'{GPU}.productName.lowerAscii() == "nvidia h100" && !device.allowMultipleAllocations',
        f'["NVIDIA H100", "NVIDIA H200"].exists(name, name == {GPU}.productName)',
        f'{GPU}.index != "3"',
    ],
)
def test_expressions_that_drivers_and_users_write(expression: str) -> None:
    assert matches(expression)
    assert not matches(f"!({expression})")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("device.driver ==", "compile error"),
        ("nothing(1)", "undeclared reference to 'nothing'"),
        ("1 + 1", "gives int, it must give a bool"),
        (f'{GPU}.missing == "x"', 'Key not found in map : "missing"'),
        ('device.attributes["nic.example.com"].speed > 3', 'Key not found in map : "speed"'),
        ("device.driver", "it must give a bool"),
        ('quantity("40Gb").isInteger()', "quantity: '40Gb': write a Kubernetes quantity"),
        (f'{MEMORY}.isGreaterThan(semver("1.2.3"))', "a version is no quantity"),
        (f"{GPU}.index.matches('x')", "No matching overloads"),
    ],
)
def test_an_expression_that_fails_is_an_error_not_a_no(expression: str, says: str) -> None:
    with pytest.raises(SelectorError) as error:
        matches(expression)
    assert says in str(error.value)


def test_what_is_decided_without_a_failing_part_is_decided() -> None:
    assert matches(f'{GPU}.missing == "x" || device.driver == "{DRIVER}"')


@given(st.integers(-(2**40), 2**40), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi", "m", "e3", "E-2"]))
def test_quantities_are_exact(number: int, unit: str) -> None:
    factor = {"": 1, "k": 1000, "M": 10**6, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "e3": 1000}
    amount = parse_quantity(f"{number}{unit}")
    if unit in factor:
        assert amount == number * factor[unit]
    else:
        assert amount * {"m": 1000, "E-2": 100}[unit] == number


IDENTIFIER = st.one_of(st.integers(0, 30).map(str), st.sampled_from(["a", "b", "rc", "x-1"]))


@given(*[st.lists(IDENTIFIER, max_size=3)] * 2)
def test_versions_sort_by_the_standard(one: list[str], other: list[str]) -> None:
    def order(parts: list[str]) -> list[tuple[bool, int, str]]:
        return [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part if not part.isdigit() else "")
            for part in parts
        ]

    def made(parts: list[str]) -> tuple[object, ...]:
        return parse_version("1.2.3" + ("-" + ".".join(parts) if parts else "")).order

    # Without a pre-release comes last; a longer one after its beginning.
    assert (made(one) < made(other)) == ((not one, order(one)) < (not other, order(other)))


@pytest.mark.parametrize("text", ["", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3.4"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="no semantic version"):
        parse_version(text)


@pytest.mark.parametrize("text", ["", "Gi", "1,5", "0x10", "1 Gi", "1K", "1e", "--1", "1" * 170])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="write a Kubernetes quantity"):
        parse_quantity(text)
