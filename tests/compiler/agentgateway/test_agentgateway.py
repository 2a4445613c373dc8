"""agentgateway: the model out of the body, a rule for each, priority groups, policies that do not cross."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Document, Documents
from epp.compiler.emission import Emission, Object
from epp.compiler.intent import (
    Access,
    Allowance,
    Backend,
    Budget,
    Condition,
    GatewayRef,
    Host,
    Intent,
    Jwt,
    Router,
    Schema,
    Scope,
    Strategy,
    Upstream,
)
from epp.compiler.options import Options, Target
from epp.compiler.targets import agentgateway
from tests.compiler.agentgateway.shape import assert_known
from tests.compiler.http_routes import assert_within_limits, chosen, codes, of_kind, the
from tests.compiler.makers import backend, origin, pool, router, rule

OPTIONS = Options(Target.AGENTGATEWAY)
MODEL = OPTIONS.model_header
ORIGIN = origin("site")


def emit(*routers: Router, documents: Documents | None = None) -> Emission:
    """Whatever is tried here has the shape that agentgateway knows."""
    emission = agentgateway.emit(Intent(routers), documents or Documents([]), OPTIONS)
    for one in emission.objects:
        assert_known(one.document)
    return emission


def provider(host: str = "api.openai.com", **more: Any) -> Backend:
    given_ = {name: more.pop(name) for name in ("name", "model", "weight", "down", "timeout") if name in more}
    server = Upstream(host, more.pop("port", 443), ORIGIN, **{"tls": True, "secret": "key", **more})
    return Backend(given_.pop("name", "cloud"), server, ORIGIN, local=False, **given_)


QWEN = rule(backend(pool("qwen")), name="qwen", models=("qwen",))


def policy(emission: Emission, word: str) -> Object:
    (found,) = [one for one in of_kind(emission, "AgentgatewayPolicy") if word in one["metadata"]["name"]]
    return found


def groups(emission: Emission) -> list[list[Object]]:
    spec = the(emission, "AgentgatewayBackend")["spec"]
    return [group["providers"] for group in spec["ai"]["groups"]]


# --- routing -----------------------------------------------------------------------------------------------


def test_the_model_is_read_out_of_the_body_before_a_route_is_chosen() -> None:
    """And overwrites what a client sends in its header, whatever the body is."""
    emission = emit(router("site", QWEN))
    found = the(emission, "AgentgatewayPolicy")
    assert found["metadata"]["namespace"] == "edge", "policies name only what is in their own namespace"
    assert found["spec"] == {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}],
        "traffic": {
            "phase": "PreRouting",
            "transformation": {
                "request": {"set": [{"name": MODEL, "value": 'default(json(request.body).model, "")'}]}
            },
        },
    }


def test_a_gateway_is_told_once_and_each_listener_by_itself() -> None:
    listener = GatewayRef("ai", "edge", "chat")
    emission = emit(router("a", QWEN), router("b", QWEN), replace(router("c", QWEN), gateway=listener))
    targets = [one["spec"]["targetRefs"][0] for one in of_kind(emission, "AgentgatewayPolicy")]
    assert [one.get("sectionName") for one in targets] == [None, "chat"]


def transforming(header: str, **target: str) -> Documents:
    """Somebody's policy before routing."""
    ref = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai", **target}
    change = {"request": {"set": [{"name": header, "value": '"a"'}]}}
    spec = {"targetRefs": [ref], "traffic": {"phase": "PreRouting", "transformation": change}}
    meta = {"name": "theirs", "namespace": "edge"}
    kind = {"apiVersion": "agentgateway.dev/v1alpha1", "kind": "AgentgatewayPolicy"}
    return Documents([Document({**kind, "metadata": meta, "spec": spec})])


def test_a_second_policy_before_routing_would_count_for_nothing() -> None:
    emission = emit(router("site", QWEN), documents=transforming("x-tenant"))
    assert codes(emission) == ["PolicyOfAnother"]
    assert emission.objects == ()


def test_one_that_says_the_model_takes_the_place_of_ours() -> None:
    emission = emit(router("site", QWEN), documents=transforming("X-Gateway-Model-Name"))
    assert of_kind(emission, "AgentgatewayPolicy") == []
    assert the(emission, "HTTPRoute")


def test_that_of_another_listener_does_not_matter() -> None:
    site = replace(router("site", QWEN), gateway=GatewayRef("ai", "edge", "chat"))
    assert codes(emit(site, documents=transforming("x-tenant", sectionName="other"))) == []


def test_a_log_is_one_for_all_listeners_of_a_gateway() -> None:
    listener = replace(router("b", QWEN, audit=True), gateway=GatewayRef("ai", "edge", "chat"))
    emission = emit(router("a", QWEN, audit=True, access=ACCESS), listener)
    assert len(policy(emission, "audit")["spec"]["targetRefs"]) == 1


def test_a_model_is_a_rule_and_an_unknown_one_gets_404() -> None:
    emission = emit(router("site", QWEN))
    route = the(emission, "HTTPRoute")
    assert route["spec"]["rules"] == [
        {
            "name": "qwen",
            "matches": [{"headers": [{"type": "Exact", "name": MODEL, "value": "qwen"}]}],
            "backendRefs": [
                {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "qwen"}
            ],
            "timeouts": {"request": "120s", "backendRequest": "120s"},
        }
    ]
    assert chosen([route], {MODEL: "other"}) is None


def test_a_route_has_ten_rules_since_their_numbers_were_compared_as_texts() -> None:
    rules = [rule(backend(pool("p")), name=f"m{one}", models=(f"m{one}",)) for one in range(25)]
    routes = of_kind(emit(router("site", *rules)), "HTTPRoute")
    assert [len(one["spec"]["rules"]) for one in routes] == [10, 10, 5]
    assert [one["metadata"]["name"] for one in routes] == ["site-00", "site-01", "site-02"]


def test_rules_of_one_name_are_told_apart() -> None:
    twins = [replace(rule(backend(pool("a")), provider(), name="same"), models=(one,)) for one in ("x", "y")]
    emission = emit(router("site", *twins))
    names = [one["metadata"]["name"] for one in of_kind(emission, "AgentgatewayBackend")]
    assert len(set(names)) == 2
    assert [one["name"] for one in the(emission, "HTTPRoute")["spec"]["rules"]] == ["same", "same-2"]


# --- backends ----------------------------------------------------------------------------------------------


def test_an_order_of_backends_is_an_order_of_groups() -> None:
    """A pool, a Mac by its Service, a provider; one failed answer and the retry finds the next."""
    mac = backend(pool("mac", pods=False, service=False))
    emission = emit(
        router("site", rule(backend(pool("qwen")), mac, provider(model="gpt-4o"), name="m", models=("m",)))
    )
    assert groups(emission) == [
        [
            {
                "name": "qwen",
                "custom": {
                    "formats": [{"type": "Completions"}, {"type": "Embeddings"}],
                    "backendRef": {
                        "group": "inference.networking.k8s.io",
                        "kind": "InferencePool",
                        "name": "qwen",
                    },
                },
            }
        ],
        [
            {
                "name": "mac",
                "custom": {
                    "formats": [{"type": "Completions"}, {"type": "Embeddings"}],
                    "backendRef": {"group": "", "kind": "Service", "name": "mac", "port": 8080},
                },
            }
        ],
        [
            {
                "name": "cloud",
                "openai": {"model": "gpt-4o"},
                "host": "api.openai.com",
                "port": 443,
                "policies": {"tls": {}, "auth": {"secretRef": {"name": "key"}}},
            }
        ],
    ]
    health = the(emission, "AgentgatewayBackend")["spec"]["policies"]["health"]
    assert health["eviction"] == {"duration": "15s", "consecutiveFailures": 1}
    retry = policy(emission, "rule-m")["spec"]
    assert retry["targetRefs"][0]["sectionName"] == "m"
    assert (retry["traffic"]["retry"]["attempts"], 500 in retry["traffic"]["retry"]["codes"]) == (2, True)
    assert the(emission, "HTTPRoute")["spec"]["rules"][0]["timeouts"] == {
        "request": "360s",
        "backendRequest": "120s",
    }


def test_pods_and_machines_outside_of_one_pool_are_providers_of_one_group() -> None:
    mixed = pool("qwen", slices=("mac",), hosts=(Host("studio", "studio.example.com", 8080),))
    emission = emit(router("site", rule(backend(mixed), name="m", models=("m",))))
    (group,) = groups(emission)
    assert [one["name"] for one in group] == ["qwen", "mac", "studio"]
    assert (group[2]["host"], group[2]["port"]) == ("studio.example.com", 8080)
    assert "annotations" not in the(emission, "InferencePool")["metadata"], "the picker names pods only"
    assert "OutsideMachinesWithoutPicker" in codes(emission)


def test_a_backend_that_is_down_is_left_out_and_comes_back_by_its_name() -> None:
    backends = (backend(pool("qwen"), down="gone"), provider())
    emission = emit(router("site", rule(*backends, name="m", models=("m",))))
    assert [[one["name"] for one in group] for group in groups(emission)] == [["cloud"]]


def test_where_all_are_down_but_pools_their_pickers_answer() -> None:
    backends = (backend(pool("qwen"), down="gone"), provider(down="no key"))
    emission = emit(router("site", rule(*backends, name="m", models=("m",))))
    assert the(emission, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["name"] == "qwen"


def test_where_nobody_can_serve_the_answer_is_503_at_once() -> None:
    emission = emit(router("site", rule(provider(down="no key"), name="m", models=("m",), fail_closed=True)))
    assert "backendRefs" not in the(emission, "HTTPRoute")["spec"]["rules"][0]
    answer = policy(emission, "rule-m")["spec"]["traffic"]["directResponse"]
    assert answer["status"] == 503
    assert "cloud: no key" in answer["body"]
    assert "NoBackendCanServe" in codes(emission)


def test_a_rule_without_backends_refuses_as_it_is_meant_to() -> None:
    emission = emit(router("site", rule(name="pii", conditions=(Condition("x-class", ("pii",)),))))
    assert policy(emission, "rule-pii")["spec"]["traffic"]["directResponse"]["status"] == 503


def test_a_canary_is_shared_by_weight_whatever_serves_it() -> None:
    backends = (backend(pool("qwen"), weight=90), provider(weight=10))
    emission = emit(router("site", rule(*backends, name="m", models=("m",), strategy=Strategy.WEIGHTED)))
    refs = the(emission, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert [(one["kind"], one["weight"]) for one in refs] == [
        ("InferencePool", 90),
        ("AgentgatewayBackend", 10),
    ]


@pytest.mark.parametrize(
    "server, expected",
    [
        (provider(prefix="/openai/v1"), {"openai": {}, "pathPrefix": "/openai/v1"}),
        (
            provider("api.anthropic.com", schema=Schema.ANTHROPIC, model="claude"),
            {"anthropic": {"model": "claude"}},
        ),
        (
            provider("bedrock-runtime.eu-west-1.amazonaws.com", schema=Schema.BEDROCK, region="eu-west-1"),
            {
                "bedrock": {"region": "eu-west-1"},
                "policies": {"auth": {"aws": {"secretRef": {"name": "key"}}}},
            },
        ),
        (
            provider("site.openai.azure.com", schema=Schema.AZURE, model="gpt"),
            {"azureopenai": {"endpoint": "site.openai.azure.com", "deploymentName": "gpt"}},
        ),
        (
            provider("ollama.llm.svc", port=11434, tls=False, secret=""),
            {"host": "ollama.llm.svc", "port": 11434},
        ),
    ],
)
def test_providers(server: Backend, expected: dict[str, Any]) -> None:
    ((found,),) = groups(emit(router("site", rule(server, name="m", models=("m",)))))
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("schema", [Schema.VERTEX, Schema.COHERE])
def test_providers_that_it_has_not_are_refused(schema: Schema) -> None:
    emission = emit(router("site", rule(provider(schema=schema), models=("m",))))
    assert [one.code for one in emission.findings if one.is_error] == ["UnsupportedProvider"]
    assert emission.objects == ()


def test_a_model_called_otherwise_goes_by_a_backend_that_says_so() -> None:
    ((found,),) = groups(emit(router("site", rule(backend(pool("qwen"), model="Qwen/Qwen3"), models=("q",)))))
    assert found["custom"]["model"] == "Qwen/Qwen3"


def test_a_backends_own_timeout_is_its_own() -> None:
    backends = (backend(pool("qwen"), timeout=600.0), provider(timeout=10.0))
    emission = emit(router("site", rule(*backends, models=("m",))))
    limits = [group[0]["policies"]["http"] for group in groups(emission)]
    assert limits == [{"requestTimeout": "600s"}, {"requestTimeout": "10s"}]


def test_backends_of_two_namespaces_are_refused() -> None:
    other = backend(replace(pool("far"), namespace="other"))
    emission = emit(router("site", rule(backend(pool("near")), other, models=("m",))))
    assert codes(emission) == ["SeveralNamespaces"]


def test_a_pool_elsewhere_is_granted() -> None:
    emission = emit(router("site", rule(backend(replace(pool("far"), namespace="other")), models=("m",))))
    assert the(emission, "ReferenceGrant")["spec"]["to"][0]["kind"] == "InferencePool"


def test_a_backend_stands_where_its_servers_are() -> None:
    """Of one namespace that is not the router's there is nothing to refuse."""
    far = backend(replace(pool("far"), namespace="other"), model="Qwen/Qwen3")
    emission = emit(router("site", rule(far, models=("m",))))
    assert [one.code for one in emission.findings if one.is_error] == []
    found = the(emission, "AgentgatewayBackend")["metadata"]
    (section,) = the(emission, "HTTPRoute")["spec"]["rules"]
    (reference,) = section["backendRefs"]
    assert (found["namespace"], reference["namespace"], reference["name"]) == (
        "other",
        "other",
        found["name"],
    )


@pytest.mark.parametrize("count, found", [(8, []), (9, ["TooManyBackends"])])
def test_a_rule_has_at_most_eight_groups(count: int, found: list[str]) -> None:
    chain = [provider(f"p{one}.example.com", name=f"p{one}") for one in range(count)]
    emission = emit(router("site", rule(*chain, models=("m",))))
    assert [one.code for one in emission.findings if one.is_error] == found


@pytest.mark.parametrize("count, found", [(16, []), (17, ["TooManyBackends"])])
def test_a_group_has_at_most_sixteen_servers(count: int, found: list[str]) -> None:
    hosts = tuple(Host(f"mac-{one}", f"192.0.2.{one + 1}", 8080) for one in range(count))
    macs = backend(pool("macs", pods=False, slices=(), hosts=hosts))
    emission = emit(router("site", rule(macs, models=("m",))))
    assert [one.code for one in emission.findings if one.is_error] == found


# --- who may ask, and how much -----------------------------------------------------------------------------

JWT = Jwt(
    "https://idp.example.com",
    "https://idp.example.com:8443/realms/llm/certs",
    "realm.team",
    "x-team",
    "idp",
    ("ai",),
)
ACCESS = Access(JWT, ORIGIN, (Allowance("red", ("qwen", "phi")), Allowance("blue")))


def test_tokens_and_lists_are_asked_for_at_every_route_of_the_router() -> None:
    """By their label: a route that is made, or is to go, is never there without."""
    rules = [rule(backend(pool("p")), name=f"m{one}", models=(f"m{one}",)) for one in range(25)]
    emission = emit(router("site", *rules, access=ACCESS))
    spec = policy(emission, "access")["spec"]
    (selector,) = spec["targetSelectors"]
    assert selector["matchLabels"] == {"fleet-epp.dev/router": "site"}
    routes = of_kind(emission, "HTTPRoute")
    assert [one["metadata"]["labels"] for one in routes] == [selector["matchLabels"]] * 3
    (asked,) = spec["traffic"]["jwtAuthentication"]["providers"]
    assert spec["traffic"]["jwtAuthentication"]["mode"] == "Strict"
    assert (asked["issuer"], asked["audiences"]) == ("https://idp.example.com", ["ai"])
    assert asked["jwks"]["remote"]["jwksPath"] == "realms/llm/certs"
    assert spec["traffic"]["authorization"] == {
        "action": "Allow",
        "policy": {
            "matchExpressions": [
                f'jwt["realm"]["team"] == "red" && request.headers["{MODEL}"] in ["qwen", "phi"]',
                'jwt["realm"]["team"] == "blue"',
            ]
        },
    }
    assert spec["traffic"]["transformation"]["request"]["set"] == [
        {"name": "x-team", "value": 'jwt["realm"]["team"]'}
    ]
    keys = the(emission, "AgentgatewayBackend")["spec"]
    assert keys == {"static": {"host": "idp.example.com", "port": 8443}, "policies": {"tls": {}}}


def test_whoever_has_a_token_may_ask_where_there_is_no_list() -> None:
    emission = emit(router("site", QWEN, access=replace(ACCESS, allowances=())))
    assert "authorization" not in policy(emission, "access")["spec"]["traffic"]


@pytest.mark.parametrize(
    "jwt, code",
    [
        (replace(JWT, jwks="idp.example.com/keys"), "InvalidAuth"),
        (replace(JWT, jwks="https://idp.example.com"), "InvalidAuth"),
        (replace(JWT, jwks="https://idp.example.com:99999/keys"), "InvalidAuth"),
        (replace(JWT, jwks="https://[::1/keys"), "InvalidAuth"),
        (replace(JWT, team_claim="realm..team"), "InvalidAuth"),
    ],
)
def test_access_that_cannot_be_checked_is_refused(jwt: Jwt, code: str) -> None:
    emission = emit(router("site", QWEN, access=replace(ACCESS, jwt=jwt)))
    assert [one.code for one in emission.findings] == [code]
    assert emission.objects == ()


def test_a_rule_cannot_trust_a_header_that_is_filled_after_routing() -> None:
    red = replace(QWEN, conditions=(Condition("x-team", ("red",)),))
    emission = emit(router("site", red, access=ACCESS))
    assert [one.code for one in emission.findings if one.is_error] == ["UnsupportedMatchInGatewayMode"]


def budget(scope: Scope, **more: Any) -> Budget:
    return Budget("cap", scope, more.pop("tokens", 5_000_000), more.pop("seconds", 3600), ORIGIN, **more)


@pytest.mark.parametrize(
    "seconds, limit",
    [
        (3600, {"tokens": 5_000_000, "unit": "Hours"}),
        (90, {"tokens": 3_333_333, "unit": "Minutes"}),
        (86_400, {"tokens": 208_333, "unit": "Hours"}),
        (1, {"tokens": 5_000_000, "unit": "Seconds"}),
    ],
)
def test_a_budget_is_a_local_limit_in_the_longest_unit_that_fits(seconds: int, limit: Object) -> None:
    emission = emit(router("site", QWEN, budgets=(budget(Scope.ROUTER, seconds=seconds),)))
    assert policy(emission, "budget")["spec"]["traffic"]["rateLimit"] == {"local": [limit]}
    assert "BudgetPerReplica" in codes(emission)
    assert groups(emission)[0][0]["name"] == "qwen", "tokens are counted where the pool is a provider"


def test_a_rules_budget_is_that_of_its_rule() -> None:
    emission = emit(router("site", QWEN, budgets=(budget(Scope.RULE, rule="qwen"),)))
    spec = policy(emission, "rule-qwen")["spec"]
    assert (spec["targetRefs"][0]["sectionName"], list(spec["traffic"])) == ("qwen", ["rateLimit"])


@pytest.mark.parametrize(
    "budgets, code",
    [
        ((budget(Scope.TEAM, header="x-team"),), "UnsupportedBudgetScope"),
        ((budget(Scope.ROUTER), budget(Scope.RULE, rule="qwen")), "UnsupportedBudgetScope"),
        ((budget(Scope.ROUTER, tokens=10**12),), "UnsupportedBudgetField"),
    ],
)
def test_budgets_that_it_cannot_keep_are_refused(budgets: tuple[Budget, ...], code: str) -> None:
    emission = emit(router("site", QWEN, budgets=budgets))
    assert [one.code for one in emission.findings if one.is_error] == [code]
    assert emission.objects == ()


def test_a_budget_over_two_routes_is_refused_since_each_would_count_by_itself() -> None:
    rules = [rule(backend(pool("p")), name=f"m{one}", models=(f"m{one}",)) for one in range(25)]
    emission = emit(router("site", *rules, budgets=(budget(Scope.ROUTER),)))
    assert [one.code for one in emission.findings if one.is_error] == ["UnsupportedBudgetScope"]


def test_a_policy_names_no_section_or_one() -> None:
    """The API server refuses an empty one."""
    budgets = (budget(Scope.ROUTER),)
    emission = emit(router("site", QWEN, access=ACCESS, audit=True, budgets=budgets))
    targets = [
        one
        for found in of_kind(emission, "AgentgatewayPolicy")
        for one in found["spec"].get("targetRefs", [])
    ]
    assert targets and all(one.get("sectionName", "some") for one in targets)


def test_the_audit_log_says_model_tokens_and_team() -> None:
    emission = emit(router("site", QWEN, access=ACCESS, audit=True), router("plain", QWEN))
    log = policy(emission, "audit")
    assert log["spec"]["targetRefs"][0]["kind"] == "Gateway"
    added = log["spec"]["frontend"]["accessLog"]["attributes"]["add"]
    assert [one["name"] for one in added] == ["model", "tokens.input", "tokens.output", "team"]


# --- its shape ---------------------------------------------------------------------------------------------

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "compiler").glob("*/agentgateway.yaml"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_golden_objects_have_a_shape_that_agentgateway_knows(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert_known(document)


@pytest.mark.parametrize(
    "spec, fault",
    [
        ({"static": {"host": "a", "port": 0}}, "spec.static.port"),
        ({"static": {"host": "a", "port": 1}, "ai": {"groups": []}}, "exactly one of"),
        ({"ai": {"groups": [{"providers": [{"name": "a", "openai": {}, "port": 1}]}]}}, "go together"),
        ({"ai": {"groups": [{"providers": [{"name": "a", "gemini": {}}]}]}}, "has no .'gemini'"),
    ],
)
def test_another_shape_is_a_fault(spec: Object, fault: str) -> None:
    document = {"apiVersion": "agentgateway.dev/v1alpha1", "kind": "AgentgatewayBackend", "spec": spec}
    with pytest.raises(AssertionError, match=fault):
        assert_known({**document, "metadata": {"name": "bad"}})


# --- for any rules -----------------------------------------------------------------------------------------

kinds = st.sampled_from(["pool", "mac", "cloud"])


@given(st.lists(st.lists(kinds, min_size=1, max_size=4, unique=True), min_size=1, max_size=30))
def test_objects_are_within_the_limits_and_name_each_other(wanted: list[list[str]]) -> None:
    servers = {
        "pool": backend(pool("qwen")),
        "mac": backend(pool("mac", pods=False)),
        "cloud": provider(),
    }
    rules = [
        rule(*(servers[kind] for kind in chain), name=f"r{number}", models=(f"m{number}",))
        for number, chain in enumerate(wanted)
    ]
    emission = emit(router("site", *rules, access=ACCESS))
    routes = of_kind(emission, "HTTPRoute")
    assert_within_limits(routes, most_rules=10)
    made = {(one["kind"], one["metadata"]["name"]) for one in (each.document for each in emission.objects)}
    sections = {
        (route["metadata"]["name"], one["name"]) for route in routes for one in route["spec"]["rules"]
    }
    for route in routes:
        for one in route["spec"]["rules"]:
            assert {(ref["kind"], ref["name"]) for ref in one["backendRefs"]} <= made
    for found in of_kind(emission, "AgentgatewayPolicy"):
        for target in found["spec"].get("targetRefs", []):
            if "sectionName" in target:
                assert (target["name"], target["sectionName"]) in sections
    for number in range(len(rules)):
        assert chosen(routes, {MODEL: f"m{number}"})["name"] == f"r{number}"  # type: ignore[index]


# --- what others have written -------------------------------------------------------------------------------


def theirs(namespace: str = "llm", target: Any = None, selector: Any = None, **spec: Any) -> Documents:
    """Somebody's policy."""
    kind = {"apiVersion": "agentgateway.dev/v1alpha1", "kind": "AgentgatewayPolicy"}
    targets = {"targetRefs": [target]} if target else {"targetSelectors": [selector]}
    meta = {"name": "theirs", "namespace": namespace}
    return Documents([Document({**kind, "metadata": meta, "spec": {**targets, **spec}})])


ON_ROUTE = {"kind": "HTTPRoute", "name": "site"}
ON_GATEWAY = {"kind": "Gateway", "name": "ai"}


@pytest.mark.parametrize("field", ["jwtAuthentication", "authorization", "transformation"])
@pytest.mark.parametrize(
    "where",
    [
        {"target": ON_ROUTE},
        {"target": {**ON_ROUTE, "sectionName": "qwen"}},
        {"selector": {"kind": "HTTPRoute", "matchLabels": {"fleet-epp.dev/router": "site"}}},
    ],
    ids=["route", "rule", "label"],
)
def test_nothing_is_made_that_somebody_elses_policy_would_open(where: Any, field: str) -> None:
    emission = emit(router("site", QWEN, access=ACCESS), documents=theirs(**where, traffic={field: {}}))
    assert codes(emission) == ["PolicyOfAnother"] and emission.objects == ()
    assert field in emission.findings[0].message


@pytest.mark.parametrize(
    "where, told",
    [
        ({"target": ON_ROUTE}, True),
        ({"target": ON_GATEWAY, "namespace": "edge"}, True),
        ({"target": {**ON_GATEWAY, "sectionName": "chat"}, "namespace": "edge"}, True),
        ({"target": {"kind": "HTTPRoute", "name": "other"}}, False),
        ({"target": ON_GATEWAY}, False),
    ],
)
def test_of_two_budgets_the_narrower_one_counts(where: Any, told: bool) -> None:
    budget = Budget("b", Scope.ROUTER, 1000, 3600, ORIGIN)
    documents = theirs(**where, traffic={"rateLimit": {}})
    emission = emit(router("site", QWEN, budgets=(budget,)), documents=documents)
    assert ("PolicyOfAnother" in codes(emission)) == told and emission.objects
    assert "PolicyOfAnother" not in codes(emit(router("site", QWEN), documents=documents))


def test_of_two_access_logs_one_counts() -> None:
    documents = theirs("edge", ON_GATEWAY, frontend={"accessLog": {}})
    assert codes(emit(router("site", QWEN, audit=True), documents=documents)) == ["PolicyOfAnother"]
    assert codes(emit(router("site", QWEN), documents=documents)) == []


def test_a_team_may_ask_by_patterns() -> None:
    models = ("qwen-*", "gemma", r"a\*b")
    allowed = replace(ACCESS, allowances=(Allowance("red", models),))
    found = policy(emit(router("site", QWEN, access=allowed)), "access")["spec"]["traffic"]["authorization"]
    header = f'request.headers["{MODEL}"]'
    (expression,) = found["policy"]["matchExpressions"]
    assert expression.endswith(
        f'&& ({header} in ["gemma", "a*b"] || {header}.matches("^qwen\\\\-[^/]*$"))'
    ), expression


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    allowed = replace(ACCESS, allowances=(Allowance("red", ("qwen-[",)),))
    assert codes(emit(router("site", QWEN, access=allowed))) == ["InvalidAuthorization"]


@pytest.mark.parametrize(
    "older, younger, told",
    [
        ("b", "a", "ModelRouter/llm/a takes"),
        ("a", "b", "ModelRouter/llm/a takes"),
        ("a", "a-b", "ModelRouter/llm/a and ModelRouter/llm/a-b want"),
        ("a" * 63, "a" * 53 + "0", f"ModelRouter/llm/{'a' * 63} and "),
    ],
)
def test_of_two_alike_the_first_by_name_has_it(older: str, younger: str, told: str) -> None:
    """However many routes a router comes to have; the names of several may be cut."""
    team = (Condition("x-team", ("red",)),)
    one, other = (
        router(name, rule(backend(pool(name[:9])), conditions=team, of=origin(name)), created=created)
        for name, created in ((older, "2026-01-01T00:00:00Z"), (younger, "2026-01-02T00:00:00Z"))
    )
    (said,) = [each for each in emit(one, other).findings if each.code == "RequestsOfAnother"]
    assert said.message.startswith(told)
