"""`multipleOf` in decimals: floats would throw good prices away."""

import pytest
from jsonschema import Draft202012Validator

from sft_utils.scores import jsonanswers


def fits(value, step):
    return not jsonanswers.schema_errors(value, {"multipleOf": step})


def test_prices_with_two_decimals_are_multiples_of_a_cent():
    prices = [cents / 100 for cents in range(10_000)]
    assert all(fits(price, 0.01) for price in prices)
    plain = Draft202012Validator({"multipleOf": 0.01})
    assert sum(not plain.is_valid(price) for price in prices) > 1000, "why this is not left to floats"
    assert not any(fits(price + 0.005, 0.01) for price in prices[1:])


@pytest.mark.parametrize(("value", "step", "expected"), [
    (0, 0.1, True), (0.3, 0.1, True), (0.35, 0.1, False), (-7.5, 2.5, True), (-7.4, 2.5, False),
    (1e308, 1e-320, True), (12, 5, False), (10**400, 0.01, True), (10**400 + 1, 2, False),
    (1e-8, 1e-9, True), (4.35, 1.45, True), ("7", 2, True), (True, 2, True), (None, 2, True),
    (float("inf"), 2, False), (float("nan"), 2, False),
])  # fmt: skip
def test_multiples(value, step, expected):
    assert fits(value, step) is expected


def test_the_message_names_value_and_step():
    found = jsonanswers.violations({"price": 19.995}, {"properties": {"price": {"multipleOf": 0.01}}})
    assert [e.message for e in found] == ["19.995 is not a multiple of 0.01"]
    assert found[0].validator == "multipleOf"
