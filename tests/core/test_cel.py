"""The part of CEL that is understood: what it comes to, what is refused, and that nothing else happens."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.cel import MAX_CHARACTERS, CelError, compile_expression

NAMES = {"usage": {"prompt_tokens": 100.0, "completion_tokens": 20.0, "details": {"cached_tokens": 64.0}}}


def value(text: str, figures: Any = NAMES) -> Any:
    return compile_expression(text, NAMES).value(figures)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1", 1),
        (" 1.5 ", 1.5),
        (".5e1", 5.0),
        ("usage.prompt_tokens + usage.completion_tokens", 120.0),
        ("usage.prompt_tokens - usage.details.cached_tokens", 36.0),
        ('usage["prompt_tokens"] * 2', 200.0),
        ("usage.details['cached_tokens']", 64.0),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 3 - 2", 5),
        ("-2 - -3", 1),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("7 / 2.0", 3.5),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("1.0 / 0", math.inf),
        ("int(usage.prompt_tokens) % 64", 36),
        ("int(-2.9)", -2),
        ("double(3) / 2", 1.5),
        ("1 < 2 == true", True),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("true != 1", True),
        ("usage.prompt_tokens >= 100 && usage.completion_tokens < 20", False),
        ("!(1 > 2) || false", True),
        ("has(usage.details.cached_tokens)", True),
        ('"details" in usage', True),
        ("usage.prompt_tokens > 50 ? 1 : 2", 1),
        ("false ? 1 : true ? 2 : 3", 2),
    ],
)
def test_what_an_expression_comes_to(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected and type(found) is type(expected)


def test_what_is_not_known_has_no_value_but_may_be_asked_for() -> None:
    without = {"usage": {"prompt_tokens": 100.0}}
    with pytest.raises(CelError, match=r"^there is no usage\.completion_tokens$"):
        value("usage.prompt_tokens + usage.completion_tokens", without)
    assert value("has(usage.completion_tokens)", without) is False
    assert value("has(usage.details.cached_tokens)", without) is False
    assert value("has(usage.completion_tokens) ? usage.completion_tokens : 0", without) == 0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("usage.completion_tokens > 1 || true", True),
        ("true || usage.completion_tokens > 1", True),
        ("usage.completion_tokens > 1 && false", False),
        ("false && usage.completion_tokens > 1", False),
    ],
)
def test_a_side_that_decides_makes_up_for_one_without_a_value(text: str, expected: bool) -> None:
    assert value(text, {"usage": {}}) is expected


@pytest.mark.parametrize(
    "text", ["usage.completion_tokens > 1 || false", "true && usage.completion_tokens > 1"]
)
def test_a_side_that_does_not_decide_does_not(text: str) -> None:
    with pytest.raises(CelError):
        value(text, {"usage": {}})


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "ends where a value is expected"),
        ("1 +", "ends where a value is expected"),
        ("(1", "ends where a value is expected"),
        ("1 2", "expected an operator or the end, got '2'"),
        ("1 $ 2", "cannot be read at '$'"),
        ("'open", 'cannot be read at "\'"'),
        ("usage.promt_tokens", "there is no usage.promt_tokens, there are usage.prompt_tokens, usage.compl"),
        ("request.size", "there is no request, there are usage."),
        ("usage.prompt_tokens.x", "there is no usage.prompt_tokens.x"),
        ("usage.", "expected a field, got ''"),
        ("usage[1]", "expected a field in quotes, got '1'"),
        ("size(usage)", "there is no function size(), there are has(), int() and double()"),
        ("has(usage)", "has() takes a field"),
        ("true ? 1", "ends where a value is expected"),
        ("1 = 2", "cannot be read at '='"),
        ("99999999999999999999", "a whole number is too large"),
        ("9223372036854775807 + 1", "a whole number is too large"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("usage.prompt_tokens % 64", "% takes whole numbers: write int("),
        ("1 + true", "expected a number, got True"),
        ("!1", "expected true or false, got 1"),
        ("1 ? 2 : 3", "expected true or false, got 1"),
        ("'a' < 'b'", "expected a number, got 'a'"),
        ("int(1.0 / 0)", "inf is no whole number"),
        ("1 in usage", "in takes a field's name"),
        ("(" * 50 + "1" + ")" * 50, "is nested too deeply"),
        ("!" * 50 + "true", "is nested too deeply"),
        ("1" + " + 1" * MAX_CHARACTERS, "is longer than 1000 characters"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(CelError) as raised:
        value(text)
    assert str(raised.value).startswith(message)


NUMBERS = st.integers(0, 99).map(lambda number: (str(number), number)) | st.sampled_from(
    [("usage.prompt_tokens", 100.0), ("usage.details.cached_tokens", 64.0), ("1.5", 1.5)]
)


def _combine(children: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    operators = {
        "+": lambda one, other: one + other,
        "-": lambda one, other: one - other,
        "*": lambda one, other: one * other,
        "<": lambda one, other: 1 if one < other else 0,
    }
    return st.builds(
        lambda sign, one, other: (
            f"({one[0]} < {other[0]} ? 1 : 0)" if sign == "<" else f"({one[0]} {sign} {other[0]})",
            operators[sign](one[1], other[1]),
        ),
        st.sampled_from(sorted(operators)),
        children,
        children,
    )


@given(st.recursive(NUMBERS, _combine, max_leaves=12))
def test_arithmetic_is_pythons(pair: tuple[str, Any]) -> None:
    text, expected = pair
    assert value(text) == expected


WORDS = [
    *("usage", ".", "prompt_tokens", "details", "has", "int", "(", ")", "[", "]", '"details"', "'x'", "1"),
    *(
        "2.5",
        "0",
        "+",
        "-",
        "*",
        "/",
        "%",
        "<",
        "==",
        "in",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "true",
        " ",
        "$",
        "9" * 25,
    ),
]


@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join) | st.text(max_size=40))
def test_any_text_has_a_value_or_a_reason(text: str) -> None:
    with contextlib.suppress(CelError):
        found = compile_expression(text, NAMES).value({"usage": {"prompt_tokens": 1.0}})
        assert isinstance(found, bool | int | float | str | dict)
