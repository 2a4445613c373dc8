"""A ModelRouter's rules keep the meaning that LLMKube's proxy gives them."""

from collections.abc import Iterable
from typing import Any

import pytest

from epp.compiler.findings import Finding
from epp.compiler.intent import Condition, Rule, Strategy
from epp.compiler.options import Target
from tests.compiler.llmkube.cluster import (
    FLEET,
    outside,
    read,
    read_router,
    read_rules,
    refused,
    router,
    rule,
    to,
    told,
)

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


@pytest.mark.parametrize("values", [["PII"], ["PII", "phi"], ["public", "Phi"]])
def test_a_sensitive_value_in_capitals_is_refused_not_dropped(values: list[str]) -> None:
    """Requests of that class would go on to rules that are not for them."""
    match = {"dataClassification": values}
    finding = refused(router(rules=[rule("cuda", match=match, failClosed=True)]))
    assert (finding.code, finding.origin.field) == (
        "UnsafeSensitiveRoute",
        "spec.rules[0].match.dataClassification",
    )
    assert finding.fix in {"write 'pii'", "write 'phi'"}


@pytest.mark.parametrize(
    "never", [{"requiredCapabilities": ["vision"]}, {"models": ["qwen["]}, {"headers": {CLASS: "public"}}]
)
def test_a_sensitive_rule_that_can_never_match_is_refused_not_dropped(never: dict[str, Any]) -> None:
    match = {"dataClassification": ["pii"], **never}
    finding = refused(router(rules=[rule("cuda", match=match, failClosed=True)], defaultRoute="cuda"))
    assert (finding.code, finding.origin.field) == ("UnsafeSensitiveRoute", "spec.rules[0].match")


def test_a_sensitive_rule_after_one_that_takes_everything_is_refused() -> None:
    pii = rule("cuda", name="pii", match={"dataClassification": ["pii"]}, failClosed=True)
    finding = refused(router(rules=[rule("cuda", name="all"), pii]))
    assert (finding.code, finding.origin.field) == ("UnsafeSensitiveRoute", "spec.rules[1]")
    _, (remark,) = told(router(rules=[rule("cuda", name="all", failClosed=True), pii]))
    assert remark.code == "RuleNeverReached"


# --- the gate: sensitive requests and a rule that leads to a cloud

CLOUD = outside("cloud", url="https://llm.example.com/v1", tier="cloud")


def gated(*rules: dict[str, Any], **spec: Any) -> tuple[Rule, ...]:
    return read_router(router(rules=list(rules), backends=[to("cuda"), CLOUD], **spec)).rules


@pytest.mark.parametrize("backends", [["cloud"], ["cuda", "cloud"]])
def test_a_rule_that_is_fail_closed_and_leads_to_a_cloud_refuses_what_is_sensitive(
    backends: list[str],
) -> None:
    gate, found = gated(rule(*backends, match={"models": ["gpt"], "headers": {"x": "1"}}, failClosed=True))
    assert (gate.backends, gate.models, gate.sensitive, gate.fail_closed) == ((), ("gpt",), True, True)
    assert gate.conditions == (Condition("x", ("1",)), Condition(CLASS, ("pii", "phi"), ignore_case=True))
    assert found.conditions == (Condition("x", ("1",)),) and names_of(found) == backends


def test_the_gate_stands_right_before_its_rule_and_has_a_name_of_its_own() -> None:
    first = rule("cuda", name="all-gate", match={"models": ["x"]})
    assert names(gated(first, rule("cloud", name="all", failClosed=True))) == [
        "all-gate",
        "all-gate-x",
        "all",
    ]


@pytest.mark.parametrize(
    "open_to_all",
    [
        rule("cloud"),
        rule("cuda", failClosed=True),
        rule("cloud", match={"dataClassification": ["public"]}, failClosed=True),
        rule("cloud", match={"headers": {CLASS: "public"}}, failClosed=True),
    ],
    ids=["not fail-closed", "local", "not sensitive", "not sensitive, by the header"],
)
def test_no_gate_where_nothing_is_to_be_refused(open_to_all: dict[str, Any]) -> None:
    (found,) = gated(open_to_all)
    assert found.backends


def test_the_gate_knows_what_the_router_calls_sensitive_and_where_it_is_said() -> None:
    policy = {"classification": {"headerKey": "X-Class", "sensitiveClassifications": ["Secret"]}}
    gate, _ = gated(rule("cloud", failClosed=True), policy=policy)
    assert gate.conditions == (Condition("x-class", ("secret",), ignore_case=True),)


def test_a_rule_that_asks_for_nothing_but_what_its_gate_refuses_is_the_gate() -> None:
    asked = rule("cloud", name="pii", match={"headers": {CLASS: "PII"}}, failClosed=True)
    found, (remark,) = told(router(rules=[asked], backends=[CLOUD], defaultRoute="cloud"))
    assert names(found.rules) == ["pii-gate", "default"]
    assert remark.code == "RuleRefusesAll"


def test_a_backend_that_only_counts_as_a_cloud_is_told() -> None:
    """LLMKube's proxy would send it whatever is sensitive."""
    nobody_said = outside("studio", url="https://llm.example.com/v1")
    found, (remark,) = told(router(rules=[rule("studio", failClosed=True)], backends=[nobody_said]))
    assert names(found.rules) == ["r-gate", "r"]
    assert remark.code == "CountsAsCloud" and "studio says no tier" in remark.message


def test_what_is_in_a_prompt_opens_no_gate() -> None:
    policy = {"classification": {"mode": "detector"}}
    finding = refused(router(rules=[rule("cloud", failClosed=True)], backends=[CLOUD], policy=policy))
    assert (finding.code, finding.origin.field) == (
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].failClosed",
    )


# --- headers that are the gateway's own


@pytest.mark.parametrize(
    "target, own",
    [(Target.ENVOY_AI_GATEWAY_1_1, "X-AI-EG-Model"), (Target.AGENTGATEWAY, "X-Gateway-Model-Name")],
)
def test_a_header_that_has_the_model_is_no_header_of_a_client(target: Target, own: str) -> None:
    asked = router(rules=[rule("cuda", match={"headers": {own: "qwen"}})], defaultRoute="cuda")
    finding = refused(asked, target=target)
    assert (finding.code, finding.origin.field) == (
        "UnsupportedMatchInGatewayMode",
        f"spec.rules[0].match.headers.{own}",
    )
    policy = {"classification": {"headerKey": own}}
    assert refused(router(policy=policy), target=target).origin.field.endswith(".headerKey")


def test_the_header_of_another_gateway_is_any_header() -> None:
    asked = router(rules=[rule("cuda", match={"headers": {"x-ai-eg-model": "qwen"}})])
    (found,) = read_router(asked, target=Target.AGENTGATEWAY).rules
    assert found.conditions == (Condition("x-ai-eg-model", ("qwen",)),)


@pytest.mark.parametrize("written", ["INTERNAL", "Internal", "internal"])
def test_a_class_and_its_very_header_are_both_asked_for(written: str) -> None:
    """LLMKube compares the class in lower case and the header as it is."""
    match = {"dataClassification": ["public", "internal"], "headers": {CLASS: written}}
    assert conditions(match) == (Condition(CLASS, (written,)),)
    policy = {"classification": {"headerKey": "X-Class"}}
    match = {"headers": {"x-class": written}, "dataClassification": ["internal"]}
    assert conditions(match, policy=policy) == (Condition("x-class", (written,)),)


# --- requests that name no model


BODILESS = {"match": {"models": ["*"]}}


@pytest.mark.parametrize("target", [Target.AGENTGATEWAY, Target.GATEWAY_API])
def test_where_no_model_is_no_header_a_star_does_not_fit_it(target: Target) -> None:
    """LLMKube's proxy takes such a request for one of the pattern ``*``, and of that alone."""
    found, remarks = told(router(rules=[rule("cuda", **BODILESS)]), target=target)
    assert codes(remarks) == ["NamelessRequestsGoOn"] and found.rules[0].models == ("*",)
    assert "has no header x-gateway-model-name here" in remarks[0].message
    assert read_router(router(rules=[rule("cuda", match={"models": ["q*"]})]), target=target)


@pytest.mark.parametrize("target", [Target.AGENTGATEWAY, Target.GATEWAY_API])
@pytest.mark.parametrize(
    "match", [{}, {"dataClassification": ["pii"]}, {"headers": {"X-LLMKube-Classification": "pii"}}]
)
def test_sensitive_ones_would_go_on_to_other_rules(match: dict[str, Any], target: Target) -> None:
    guard = rule("cuda", match={**BODILESS["match"], **match}, failClosed=True)
    reading = read(*FLEET, router(rules=[guard], defaultRoute="cuda"), target=target)
    (fault,) = [one for one in reading.findings if one.is_error]
    assert (fault.code, fault.origin.field) == ("UnsafeSensitiveRoute", "spec.rules[0].match.models")
    assert fault.fix == "leave models out" and not reading.routers
    assert read(*FLEET, router(rules=[{**guard, "match": match}], defaultRoute="cuda"), target=target).routers


def test_envoy_ai_gateway_has_its_header_all_the_same() -> None:
    assert read_rules(rule("cuda", **BODILESS))[0].models == ("*",)
