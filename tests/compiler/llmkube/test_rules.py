"""A ModelRouter's rules keep the meaning that LLMKube's proxy gives them."""

from collections.abc import Iterable
from typing import Any

import pytest

from epp.compiler.findings import Finding
from epp.compiler.intent import Condition, Rule, Strategy
from tests.compiler.llmkube.cluster import read_rules, refused, router, rule, to, told

CLASS = "x-llmkube-classification"


def names(rules: Iterable[Rule]) -> list[str]:
    return [one.name for one in rules]


def codes(remarks: Iterable[Finding]) -> list[str]:
    return [one.code for one in remarks]


def conditions(match: dict[str, Any], **spec: Any) -> tuple[Condition, ...]:
    (found,) = read_rules(rule("cuda", match=match), **spec)
    return found.conditions


# --- order and defaults


def test_rules_stay_in_the_order_in_which_they_are_written() -> None:
    first, second = rule("cuda", name="b", match={"models": ["x"]}), rule("metal", name="a")
    assert names(read_rules(first, second)) == ["b", "a"]


def test_the_default_route_is_the_last_rule_and_never_fail_closed() -> None:
    *_, default = read_rules(rule("cuda", match={"models": ["x"]}), defaultRoute="metal")
    assert default.is_default and not default.fail_closed
    assert (default.models, default.conditions) == ((), ())
    assert [one.name for one in default.backends] == ["metal"]


def test_nothing_is_left_after_a_rule_that_takes_everything() -> None:
    rules = [rule("cuda", name="all"), rule("metal", name="late")]
    spec = {"backends": [to("cuda"), to("metal")], "defaultRoute": "metal"}
    found, (remark,) = told(router(rules=rules, **spec))
    assert names(found.rules) == ["all"]
    assert (remark.code, remark.origin.field) == ("RuleNeverReached", "spec.rules[1]")


@pytest.mark.parametrize("match", [None, {}, {"models": []}, {"headers": {}}, {"requiredCapabilities": []}])
def test_an_empty_match_is_every_request(match: Any) -> None:
    (found,) = read_rules(rule("cuda", match=match))
    assert (found.models, found.conditions, found.is_default) == ((), (), False)


def test_a_rule_that_is_called_default_keeps_its_name() -> None:
    found = read_rules(rule("cuda", name="default", match={"models": ["x"]}), defaultRoute="cuda")
    assert names(found) == ["default", "default-x"]


# --- BackendNameMatch


def test_backends_are_asked_for_by_both_of_their_names_before_the_default() -> None:
    found = read_rules(
        rule("cuda", match={"models": ["x"]}),
        backends=[to("cuda", displayName="Qwen 3 [4bit]"), to("metal")],
        defaultRoute="metal",
        defaultRouteStrategy="BackendNameMatch",
    )
    assert [one.models for one in found] == [("x",), ("Qwen 3 \\[4bit]", "cuda"), ("metal",), ()]
    assert [one.is_default for one in found] == [False, False, False, True]


def test_of_two_backends_with_one_name_the_first_has_it() -> None:
    found = read_rules(
        backends=[to("cuda", displayName="metal"), to("metal")], defaultRouteStrategy="BackendNameMatch"
    )
    assert [(one.models, names_of(one)) for one in found] == [(("metal", "cuda"), ["cuda"])]


def names_of(rule: Rule) -> list[str]:
    return [one.name for one in rule.backends]


# --- what a request must be


def test_classifications_are_compared_in_whatever_case() -> None:
    assert conditions({"dataClassification": ["public"]}) == (
        Condition(CLASS, ("public",), ignore_case=True),
    )


@pytest.mark.parametrize("written, header", [("  ", CLASS), (" X-Class ", "x-class")])
def test_the_header_of_classifications_is_trimmed_and_has_a_default(written: str, header: str) -> None:
    policy = {"classification": {"headerKey": written}}
    assert conditions({"dataClassification": ["public"]}, policy=policy)[0].header == header


def test_a_classification_in_capitals_is_dropped_and_told_while_the_others_stay() -> None:
    found, (remark,) = told(
        router(rules=[rule("cuda", match={"dataClassification": ["Public", "internal"]})])
    )
    assert found.rules[0].conditions[0].values == ("internal",)
    assert remark.code == "ValueNeverMatches" and "write 'public'" in remark.message


NEVER = {
    "classification in capitals": {"dataClassification": ["INTERNAL"]},
    "bad glob": {"models": ["qwen["]},
    "empty model": {"models": [""]},
    "range that ends before it begins": {"models": ["[z-a]"]},
    "capability that no backend has": {"requiredCapabilities": ["vision"]},
    "two values of one header": {"headers": {"X-Team": "a", "x-team": "b"}},
    "classification and the same header": {"dataClassification": ["public"], "headers": {CLASS: "internal"}},
    "no name of a header": {"headers": {"x team": "a"}},
}


@pytest.mark.parametrize("match", NEVER.values(), ids=NEVER)
def test_a_rule_that_can_never_match_is_left_out_rather_than_matching_more(match: dict[str, Any]) -> None:
    found, remarks = told(router(rules=[rule("cuda", name="never", match=match), rule("cuda", name="rest")]))
    assert names(found.rules) == ["rest"]
    assert codes(remarks)[-1] == "RuleNeverMatches"
    assert "later rules" in remarks[-1].message


def test_a_bad_pattern_among_good_ones_matches_nothing() -> None:
    found, (remark,) = told(router(rules=[rule("cuda", match={"models": ["a\\", "qwen3-*", "qwen3-*"]})]))
    assert found.rules[0].models == ("qwen3-*",)
    assert remark.code == "ValueNeverMatches" and "backslash" in remark.message


def test_the_complexity_of_a_task_is_a_header() -> None:
    wanted = Condition("x-llmkube-task-complexity", ("complex",), ignore_case=True)
    assert conditions({"taskComplexity": "complex"}) == (wanted,)


def test_headers_are_named_in_lower_case_and_compared_exactly() -> None:
    assert conditions({"headers": {"X-Team": "Blue", "x-app": "chat"}}) == (
        Condition("x-team", ("Blue",)),
        Condition("x-app", ("chat",)),
    )


def test_two_conditions_on_one_header_are_one() -> None:
    both = {"dataClassification": ["public", "internal"], "headers": {CLASS: "PUBLIC"}}
    assert conditions(both) == (Condition(CLASS, ("PUBLIC",)),)
    assert conditions({"headers": {"X-A": "1", "x-a": "1"}}) == (Condition("x-a", ("1",)),)


def test_one_backend_with_all_capabilities_is_enough_and_no_backend_is_filtered() -> None:
    backends = [to("cuda", capabilities=["tools", "vision"]), to("metal", capabilities=["tools"])]
    match = {"requiredCapabilities": ["vision", "tools"]}
    (found,) = read_rules(rule("cuda", "metal", match=match), backends=backends)
    assert (found.conditions, names_of(found)) == ((), ["cuda", "metal"])


def test_a_latency_objective_has_no_effect_and_that_is_said() -> None:
    found, (remark,) = told(router(rules=[rule("cuda", match={"latencySLOMs": 500})]))
    assert found.rules[0].conditions == ()
    assert remark.code == "LatencySLOIgnored"


# --- where it leads


def test_backends_stay_in_their_order_and_are_tried_one_after_the_other() -> None:
    (found,) = read_rules(rule("metal", "cuda", failClosed=True))
    assert (names_of(found), found.strategy, found.fail_closed) == (
        ["metal", "cuda"],
        Strategy.FALLBACK,
        True,
    )


def test_weights_are_the_backends_and_one_if_nobody_says() -> None:
    backends = [to("cuda", weight=9), to("metal")]
    (found,) = read_rules(rule("cuda", "metal", route={"strategy": "weighted"}), backends=backends)
    assert found.strategy is Strategy.WEIGHTED
    assert [one.weight for one in found.backends] == [9, 1]


def test_a_backend_that_is_named_twice_counts_once() -> None:
    found, (remark,) = told(router(rules=[rule("cuda", "cuda")]))
    assert names_of(found.rules[0]) == ["cuda"] and remark.code == "BackendTwice"


@pytest.mark.parametrize(
    "written, seconds",
    [("100ms", 0.1), ("1.5s", 1.5), ("1m30s", 90.0), ("30m", 1800.0), ("0.5h", 1800.0)],
)
def test_timeouts_are_gos_and_may_have_a_fraction(written: str, seconds: float) -> None:
    (found,) = read_rules(rule("cuda", timeout=written), backends=[to("cuda", timeout=written)])
    assert (found.timeout, found.backends[0].timeout) == (seconds, seconds)


def test_a_time_for_the_whole_proxy_is_that_of_backends_that_say_none() -> None:
    backends = [to("cuda", timeout="90s"), to("metal")]
    (found,) = read_rules(rule("cuda", "metal"), backends=backends, proxy={"responseHeaderTimeout": "10m"})
    assert [one.timeout for one in found.backends] == [90.0, 600.0]


def test_who_says_no_time_has_none() -> None:
    (found,) = read_rules(rule("cuda"))
    assert (found.timeout, found.backends[0].timeout) == (None, None)


# --- sensitive


def test_pii_and_phi_are_sensitive_if_the_router_lists_nothing() -> None:
    match = {"dataClassification": ["pii"]}
    (found,) = read_rules(rule("cuda", match=match, failClosed=True))
    assert found.sensitive and found.fail_closed


@pytest.mark.parametrize("listed, is_sensitive", [(["secret"], True), (["SECRET"], True), ([], False)])
def test_a_router_may_list_what_is_sensitive_in_whatever_case(listed: list[str], is_sensitive: bool) -> None:
    policy = {"classification": {"sensitiveClassifications": listed}}
    match = {"dataClassification": ["secret"]}
    (found,) = read_rules(rule("cuda", match=match, failClosed=True), policy=policy)
    assert found.sensitive is is_sensitive


def test_a_sensitive_rule_that_is_not_fail_closed_is_refused() -> None:
    finding = refused(router(rules=[rule("cuda", match={"dataClassification": ["phi"]})]))
    assert (finding.code, finding.origin.field) == ("UnsafeSensitiveRoute", "spec.rules[0].failClosed")
