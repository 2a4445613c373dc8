"""The proxy's rules, each by an example from its description."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.meaning.proxy import answer, path_match
from tests.meaning.request import Request
from tests.meaning.routers import backends


def rule(name: str, *to: str, **match: Any) -> dict[str, Any]:
    return {"name": name, "match": match, "route": {"backends": list(to)}}


def asked(model: str = "qwen", *rules: dict[str, Any], headers: Any = None, **more: Any) -> set[str]:
    spec = {"backends": backends(cloud=True), "rules": list(rules), **more}
    return set(answer(spec, Request(model, headers or {})).backends)


def test_the_first_rule_that_matches_decides() -> None:
    first, second = rule("a", "cuda", models=["q*"]), rule("b", "metal", models=["qwen"])
    assert asked("qwen", first, second) == {"cuda"}
    assert asked("qwen", second, first) == {"metal"}


def test_a_class_is_compared_in_lower_case() -> None:
    for value, served in [("PII", {"metal"}), ("pii", {"metal"}), ("public", set())]:
        headers = {"x-llmkube-classification": value}
        assert asked("qwen", rule("a", "metal", dataClassification=["pii"]), headers=headers) == served
        assert asked("qwen", rule("a", "metal", dataClassification=["PII"]), headers=headers) == set()


def test_a_rule_that_is_fail_closed_refuses_sensitive_requests_to_a_cloud() -> None:
    closed = {**rule("a", "cuda", "cloud"), "failClosed": True}
    for value, served in [("PII", set()), ("phi", set()), ("public", {"cuda", "api.example.com"})]:
        headers = {"x-llmkube-classification": value}
        assert asked("qwen", closed, defaultRoute="metal", headers=headers) == served
        assert asked("qwen", rule("a", "cloud"), headers=headers) == {"api.example.com"}
    policy = {"classification": {"sensitiveClassifications": ["public"]}}
    public = {"x-llmkube-classification": "public"}
    assert asked("qwen", closed, headers=public, policy=policy) == set()


def test_one_able_backend_is_enough_for_all_of_the_rule() -> None:
    assert asked("qwen", rule("a", "cuda", "spare", requiredCapabilities=["vision"])) == {"cuda", "spare"}
    assert asked("qwen", rule("a", "metal", "spare", requiredCapabilities=["vision"])) == set()


def test_a_backend_may_be_asked_for_by_name() -> None:
    by_name = {"defaultRouteStrategy": "BackendNameMatch", "defaultRoute": "metal"}
    assert asked("qwen-vl", **by_name) == {"cuda"}
    assert asked("spare", **by_name) == {"spare"}
    assert asked("else", **by_name) == {"metal"}
    assert asked("", **by_name) == {"metal"}


def test_no_model_matches_no_list_or_a_star() -> None:
    assert asked("", rule("a", "cuda", models=["**"])) == set()
    assert asked("", rule("a", "cuda", models=["*"])) == {"cuda"}
    assert asked("", rule("a", "cuda")) == {"cuda"}


@pytest.mark.parametrize(
    "pattern, fits, fits_not",
    [
        ("qwen*", "qwen-vl", "qwen/vl"),
        ("ph?", "phi", "ph"),
        ("[a-c]x", "bx", "dx"),
        ("[^a-c]x", "dx", "ax"),
        (r"\*", "*", "x"),
        ("a[]-]", None, "a]"),
        ("[", None, "["),
        ("a\\", None, "a"),
    ],
)
def test_patterns_are_those_of_go(pattern: str, fits: str | None, fits_not: str) -> None:
    if fits is None:
        with pytest.raises(ValueError, match="bad pattern"):
            path_match(pattern, fits_not)
    else:
        assert path_match(pattern, fits) and not path_match(pattern, fits_not)


@given(st.text("ab*?[]^-\\/", max_size=6), st.text("ab/*", max_size=5))
def test_a_pattern_is_good_or_bad_whatever_it_is_compared_with(pattern: str, name: str) -> None:
    def is_bad(name: str) -> bool:
        try:
            path_match(pattern, name)
        except ValueError:
            return True
        return False

    assert is_bad(name) == is_bad("")
