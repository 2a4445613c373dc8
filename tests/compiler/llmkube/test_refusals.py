"""ModelRouters that are wrong: one error on the object that is, and all others stay."""

from typing import Any

import pytest

from tests.compiler.llmkube.cluster import (
    FLEET,
    document,
    exposed,
    model,
    outside,
    read,
    refused,
    router,
    rule,
    service,
    to,
)

JWT = {"provider": "keycloak", "issuer": "https://id", "jwksURI": "https://id/certs", "teamClaim": "team"}
TOKENS = {"name": "b", "scope": "router", "maxTokens": 1}
ELSEWHERE = {"name": "cuda", "inferenceServiceRef": {"name": "cuda", "namespace": "other"}}
BOTH = {**outside("cuda"), "inferenceServiceRef": {"name": "cuda"}}


def policy(**parts: Any) -> dict[str, Any]:
    return {"policy": parts}


def budgets(*parts: dict[str, Any]) -> dict[str, Any]:
    return policy(budgets=list(parts))


def auth(**parts: Any) -> dict[str, Any]:
    return policy(auth=parts)


def rules(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rules": list(parts), **more}


def matching(**match: Any) -> dict[str, Any]:
    return rules(rule("cuda", match=match))


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    # backends
    "none": ({"backends": [], "rules": []}, "SpecInvalid", "spec.backends"),
    "two of one name": ({"backends": [to("cuda"), to("cuda")]}, "SpecInvalid", "spec.backends[1].name"),
    "both kinds": ({"backends": [BOTH]}, "SpecInvalid", "spec.backends[0]"),
    "neither kind": ({"backends": [{"name": "cuda"}]}, "SpecInvalid", "spec.backends[0]"),
    "a cloud in the cluster": (
        {"backends": [to("cuda", tier="cloud")]},
        "SpecInvalid",
        "spec.backends[0].tier",
    ),
    "a tier of its own": ({"backends": [to("cuda", tier="edge")]}, "SpecInvalid", "spec.backends[0].tier"),
    "a name in capitals": ({"backends": [to("CUDA")]}, "SpecInvalid", "spec.backends[0].name"),
    "a negative weight": ({"backends": [to("cuda", weight=-1)]}, "SpecInvalid", "spec.backends[0].weight"),
    "unknown provider": (
        {"backends": [outside("cuda", provider="acme")]},
        "SpecInvalid",
        "spec.backends[0].external.provider",
    ),
    "no such service": (
        {"backends": [to("gone")], **rules(rule("gone"))},
        "ReconcileFailed",
        "spec.backends[0].inferenceServiceRef",
    ),
    "another namespace": (
        {"backends": [ELSEWHERE]},
        "ReconcileFailed",
        "spec.backends[0].inferenceServiceRef.namespace",
    ),
    # rules
    "unknown backend": (rules(rule("gone")), "SpecInvalid", "spec.rules[0].route.backends"),
    "no backend": (rules(rule()), "SpecInvalid", "spec.rules[0].route.backends"),
    "no route": (rules({"name": "r"}), "SpecInvalid", "spec.rules[0].route.backends"),
    "two rules of one name": (
        rules(rule("cuda", match={"models": ["x"]}), rule("cuda")),
        "SpecInvalid",
        "spec.rules[1].name",
    ),
    "shadow": (
        rules(rule("cuda", route={"strategy": "shadow"})),
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].route.strategy",
    ),
    "strategy of its own": (
        rules(rule("cuda", route={"strategy": "best"})),
        "SpecInvalid",
        "spec.rules[0].route.strategy",
    ),
    "nobody has a weight": (
        rules(rule("cuda", route={"strategy": "weighted"}), backends=[to("cuda", weight=0)]),
        "SpecInvalid",
        "spec.rules[0].route.strategy",
    ),
    "too short": (rules(rule("cuda", timeout="99ms")), "SpecInvalid", "spec.rules[0].timeout"),
    "too long": (rules(rule("cuda", timeout="30m0.1s")), "SpecInvalid", "spec.rules[0].timeout"),
    "no time": (rules(rule("cuda", timeout="soon")), "SpecInvalid", "spec.rules[0].timeout"),
    "backend's time": ({"backends": [to("cuda", timeout="1h")]}, "SpecInvalid", "spec.backends[0].timeout"),
    "no rule and no default": ({"rules": []}, "SpecInvalid", "spec"),
    "unknown default": ({"defaultRoute": "gone"}, "SpecInvalid", "spec.defaultRoute"),
    "default of its own": ({"defaultRouteStrategy": "Best"}, "SpecInvalid", "spec.defaultRouteStrategy"),
    # what a request must be
    "unknown complexity": (
        matching(taskComplexity="Hard"),
        "SpecInvalid",
        "spec.rules[0].match.taskComplexity",
    ),
    "no classification": (
        matching(dataClassification=[""]),
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].match.dataClassification",
    ),
    "empty header": (
        matching(headers={"x": ""}),
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].match.headers.x",
    ),
    "detector": (
        {**matching(dataClassification=["public"]), **policy(classification={"mode": "detector"})},
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].match.dataClassification",
    ),
    "hybrid": (
        {**matching(dataClassification=["public"]), **policy(classification={"mode": "hybrid"})},
        "UnsupportedMatchInGatewayMode",
        "spec.rules[0].match.dataClassification",
    ),
    "no header of classifications": (
        policy(classification={"headerKey": "x y"}),
        "SpecInvalid",
        "spec.policy.classification.headerKey",
    ),
    # policy
    "dollars": (
        budgets({**TOKENS, "maxUSD": "5"}),
        "UnsupportedBudgetField",
        "spec.policy.budgets[0].maxUSD",
    ),
    "no limit": (budgets({"name": "b", "scope": "router"}), "InvalidBudget", "spec.policy.budgets[0]"),
    "unknown scope": (
        budgets({**TOKENS, "scope": "user"}),
        "UnsupportedBudgetScope",
        "spec.policy.budgets[0].scope",
    ),
    "rule that is not named": (
        budgets({**TOKENS, "scope": "rule"}),
        "InvalidBudget",
        "spec.policy.budgets[0].ruleName",
    ),
    "rule that is not there": (
        budgets({**TOKENS, "scope": "rule", "ruleName": "gone"}),
        "InvalidBudget",
        "spec.policy.budgets[0].ruleName",
    ),
    "two budgets of one name": (budgets(TOKENS, TOKENS), "InvalidBudget", "spec.policy.budgets[1].name"),
    "no window": (
        budgets({**TOKENS, "windowSeconds": 0}),
        "SpecInvalid",
        "spec.policy.budgets[0].windowSeconds",
    ),
    "jwt without an issuer": (auth(jwt={**JWT, "issuer": " "}), "InvalidAuth", "spec.policy.auth.jwt.issuer"),
    "keys that are nowhere": (
        auth(jwt={**JWT, "jwksURI": "certs"}),
        "InvalidAuth",
        "spec.policy.auth.jwt.jwksURI",
    ),
    "teams that nobody verifies": (
        auth(allowlists=[{"team": "a"}]),
        "AuthorizationRequiresJWT",
        "spec.policy.auth.allowlists",
    ),
    "two lists of one team": (
        auth(jwt=JWT, allowlists=[{"team": "a"}, {"team": "a"}]),
        "InvalidAuthorization",
        "spec.policy.auth.allowlists[1].team",
    ),
    "list of no team": (
        auth(jwt=JWT, allowlists=[{"team": ""}]),
        "InvalidAuthorization",
        "spec.policy.auth.allowlists[0].team",
    ),
    "audit log in a file": (
        policy(auditLog={"sink": "file"}),
        "UnsupportedAuditLogInGatewayMode",
        "spec.policy.auditLog.sink",
    ),
    "audit log with bodies": (
        policy(auditLog={"includeRequestBody": True}),
        "UnsupportedAuditLogInGatewayMode",
        "spec.policy.auditLog.includeRequestBody",
    ),
    # the object
    "no gateway": ({"gatewayRef": None}, "GatewayRefMissing", "spec.gatewayRef"),
    "gateway without a name": ({"gatewayRef": {"name": ""}}, "GatewayRefMissing", "spec.gatewayRef"),
    "unknown data plane": ({"dataPlane": "Mesh"}, "SpecInvalid", "spec.dataPlane"),
    "data plane of another type": ({"dataPlane": 1}, "SpecInvalid", "spec.dataPlane"),
    "rules of another type": ({"rules": "all"}, "SpecInvalid", "spec.rules"),
    "rule of another type": ({"rules": [1]}, "SpecInvalid", "spec.rules[0]"),
    "rule without a name": ({"rules": [{"route": {"backends": ["cuda"]}}]}, "SpecInvalid", "spec.rules[0]"),
    "header of another type": (matching(headers={"x": 1}), "SpecInvalid", "spec.rules[0].match.headers[...]"),
}


@pytest.mark.parametrize("spec, code, field", WRONG.values(), ids=WRONG)
def test_one_error_on_the_router_that_is_wrong(spec: dict[str, Any], code: str, field: str) -> None:
    finding = refused(router(**spec))
    assert (finding.code, finding.origin.field) == (code, field)


@pytest.mark.parametrize("spec, code, field", WRONG.values(), ids=WRONG)
def test_all_others_stay(spec: dict[str, Any], code: str, field: str) -> None:
    good = document("ModelRouter", "good", router().spec)
    reading = read(*FLEET, exposed("open"), router(**spec), good)
    assert {one.name for one in reading.routers} == {"open", "good"}


def test_several_mistakes_of_one_router_are_told_together() -> None:
    reading = read(*FLEET, router(rules=[rule("gone"), rule("cuda", timeout="soon")], gatewayRef=None))
    assert sorted(one.origin.field for one in reading.findings) == [
        "spec.gatewayRef",
        "spec.rules[0].route.backends",
        "spec.rules[1].name",
        "spec.rules[1].timeout",
    ]


def test_a_service_that_cannot_be_read_is_told_itself_and_fails_who_needs_it() -> None:
    reading = read(model(), service("cuda", containerPort="http"), router())
    assert {(one.origin.kind, one.code, one.origin.field) for one in reading.findings} == {
        ("InferenceService", "SpecInvalid", "spec.containerPort"),
        ("ModelRouter", "ReconcileFailed", "spec.backends[0].inferenceServiceRef"),
    }
    assert not reading.routers


def test_a_service_whose_name_fits_no_label_is_refused() -> None:
    long = "q" * 64
    backend = {"name": "cuda", "inferenceServiceRef": {"name": long}}
    reading = read(model(), service(long), router(backends=[backend]))
    assert ("metadata.name", "SpecInvalid") in {(one.origin.field, one.code) for one in reading.findings}


def test_an_object_that_is_there_twice_is_neither() -> None:
    reading = read(*FLEET, router(), router(defaultRoute="cuda"))
    (finding,) = reading.findings
    assert finding.code == "DuplicateObject" and not reading.routers


def test_an_object_without_a_name_is_told() -> None:
    reading = read(*FLEET, document("ModelRouter", "", router().spec))
    (finding,) = reading.findings
    assert finding.origin.field == "metadata.name" and not reading.routers


def test_only_llmkubes_own_objects_count() -> None:
    other = document("InferenceService", "cuda", {"predictor": {}}, api="serving.kserve.io/v1beta1")
    assert not [one for one in read(*FLEET, router(), other).findings if one.is_error]
    assert refused(router(backends=[to("kserve")], rules=[rule("kserve")]), other).code == "ReconcileFailed"
