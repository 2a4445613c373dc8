"""What a header must be, and what two of these share: globs as Go has them, never more or less than both."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.patterns import (
    ANYTHING,
    EXACT,
    SPELLED,
    BadPattern,
    Matcher,
    escape,
    literal,
    matches,
    of_model,
    of_value,
    regex,
)


@pytest.mark.parametrize(
    "glob, names, others",
    [
        ("qwen-*", ["qwen-", "qwen-3"], ["qwen", "qwen-a/b"]),
        ("*", ["", "qwen"], ["org/qwen"]),
        ("*/*", ["org/qwen", "/"], ["qwen", "a/b/c"]),
        ("qwen?", ["qwen3"], ["qwen", "qwen/"]),
        ("qwen[1-3]", ["qwen2"], ["qwen4", "qwen"]),
        ("qwen[^1-3]", ["qwen4", "qwen/"], ["qwen2"]),
        (r"qwen\*", ["qwen*"], ["qwen3"]),
        ("a.c", ["a.c"], ["abc"]),
        ("[a^]", ["a", "^"], ["b"]),
        ("x[^z-a]", ["xa", "x/"], ["x", "xab"]),
        ("[^z-ab]", ["a", "z"], ["b"]),
        ("[z-ab]", ["b"], ["a", "z"]),
    ],
)
def test_globs_mean_what_go_says(glob: str, names: list[str], others: list[str]) -> None:
    assert [name for name in [*names, *others] if matches(glob, name)] == names


@pytest.mark.parametrize("bad", ["", "[", "[]", "[a", "[a-", "[-a]", "a\\", "[z-a]"])
def test_what_go_calls_bad_matches_nothing(bad: str) -> None:
    with pytest.raises(BadPattern):
        regex(bad)
    assert not matches(bad, bad)


@given(st.text("ab*?[\\/^]-.", max_size=8))
def test_an_escaped_name_is_itself_alone(name: str) -> None:
    assert literal(escape(name)) == name
    if name:
        assert of_model(escape(name)) == Matcher(name)


@given(st.text("aB1.-é", min_size=1, max_size=6))
def test_in_any_case(value: str) -> None:
    matcher = of_value(value, ignore_case=True)
    assert matcher.accepts(value)
    assert matcher.accepts("".join(one.swapcase() if one.isascii() else one for one in value))
    assert not matcher.accepts(value + "x")


def test_a_value_without_letters_is_exact_in_any_case() -> None:
    assert of_value("2026-11", ignore_case=True) == Matcher("2026-11")


def test_regular_expressions_are_plain_enough_for_every_gateway() -> None:
    """No (?i), no lookahead: JavaScript in NGINX and RE2 in Envoy read the same."""
    assert of_value("PII", ignore_case=True).regex == "^[Pp][Ii][Ii]$"
    assert of_model("qwen-*").regex == r"^qwen\-[^/]*$"


signs = st.sampled_from(["a", "b", "/", "*", "?", "[ab]", "[^a]", r"\*"])
globs = st.lists(signs, min_size=1, max_size=6).map("".join)
texts = st.text("ab/*", max_size=6)


@given(globs, globs, st.lists(texts, min_size=1, max_size=30))
def test_what_two_share_is_what_both_accept(one: str, other: str, tried: list[str]) -> None:
    try:
        shared = of_model(one).meet(of_model(other))
    except ValueError:
        return
    for text in tried:
        both = of_model(one).accepts(text) and of_model(other).accepts(text)
        assert any(matcher.accepts(text) for matcher in shared) == both, (text, shared)


@given(globs, globs, st.lists(texts, min_size=1, max_size=30))
def test_who_covers_accepts_all_of_it(one: str, other: str, tried: list[str]) -> None:
    if of_model(one).covers(of_model(other)):
        for text in tried:
            assert of_model(one).accepts(text) or not of_model(other).accepts(text)


@given(st.text("ab*?", min_size=1, max_size=6), texts.filter(lambda text: "/" not in text))
def test_without_a_slash_it_is_a_shell_pattern(glob: str, text: str) -> None:
    assert of_model(glob).accepts(text) == fnmatchcase(text, glob)


@given(globs)
def test_every_regular_expression_is_one(glob: str) -> None:
    re.compile(of_model(glob).regex)


def test_what_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(ValueError, match="in common cannot be written down"):
        Matcher("[ab]x*", "glob").meet(Matcher("[bc]x*", "glob"))


kinds = st.one_of(
    st.builds(of_model, st.sampled_from(["a*", "?b", "*/*", "ab"])),
    st.builds(Matcher, st.sampled_from(["ab", "AB", "a.b"]), st.sampled_from([EXACT, SPELLED])),
    st.builds(of_value, st.sampled_from(["ab", "aB", "a.b"]), ignore_case=st.booleans()),
    st.just(ANYTHING),
)
TRIED = ("ab", "AB", "aB", "a.b", "axb", "a/b", "b", "")


@given(kinds, kinds)
def test_of_whatever_kinds_two_share_what_both_accept(one: Matcher, other: Matcher) -> None:
    try:
        shared = one.meet(other)
    except ValueError:  # a glob and a text in any case
        assert {one.kind, other.kind} == {"glob", "any case"}
        return
    for text in TRIED:
        assert any(each.accepts(text) for each in shared) == (one.accepts(text) and other.accepts(text)), text
        assert one.accepts(text) or not (one.covers(other) and other.accepts(text))
    assert all((re.fullmatch(one.regex, text) is not None) == one.accepts(text) for text in TRIED)


def test_a_text_that_is_spelled_out_gives_way_to_an_exact_one() -> None:
    exact, spelled = Matcher("a"), Matcher("a", SPELLED)
    assert exact.meet(spelled) == spelled.meet(exact) == (exact,)
    assert spelled.meet(ANYTHING) == ANYTHING.meet(spelled) == (spelled,)
    assert ANYTHING.covers(Matcher("a*", "glob")) and not Matcher("a*", "glob").covers(ANYTHING)
    assert spelled.covers(exact) and not spelled.covers(ANYTHING)
