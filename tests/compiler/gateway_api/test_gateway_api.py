"""HTTPRoutes and InferencePools for every gateway that conforms: what comes out, and what is refused."""

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Document, Documents
from epp.compiler.emission import Emission
from epp.compiler.intent import (
    Access,
    Allowance,
    Backend,
    Budget,
    Condition,
    Host,
    Intent,
    Jwt,
    Router,
    Rule,
    Schema,
    Scope,
    Strategy,
    Upstream,
)
from epp.compiler.options import Options, Target
from epp.compiler.targets import gateway_api
from tests.compiler.http_routes import assert_within_limits, chosen, codes, of_kind, the
from tests.compiler.makers import backend, origin, pool, router, rule

OPTIONS = Options(Target.GATEWAY_API)
MODEL = OPTIONS.model_header
INFERENCE = "inference.networking.k8s.io"


def emit(*routers: Router, options: Options = OPTIONS, documents: Documents | None = None) -> Emission:
    return gateway_api.emit(Intent(routers), documents or Documents([]), options)


def upstream(host: str, **more: Any) -> Backend:
    given_ = {name: more.pop(name) for name in ("model", "weight", "down") if name in more}
    server = Upstream(host, more.pop("port", 8000), origin("router"), **more)
    return Backend("cloud", server, origin("router"), **given_)


QWEN = rule(backend(pool("qwen")), name="qwen", models=("qwen",))


# --- routes ------------------------------------------------------------------------------------------------


def test_more_than_a_hundred_routes_stand_in_the_order_of_their_rules() -> None:
    many = (rule(backend(pool("qwen")), name=f"r{n}", models=(f"m{n}",)) for n in range(102 * 16))
    found = of_kind(emit(router("site", *many)), "HTTPRoute")
    found.sort(key=lambda one: str(one["metadata"]["name"]))
    firsts = [one["spec"]["rules"][0]["matches"][0]["headers"][0]["value"] for one in found]
    assert firsts == [f"m{n}" for n in range(0, 102 * 16, 16)]


def test_a_model_is_a_rule_that_leads_to_its_pool() -> None:
    emission = emit(router("site", QWEN, hostnames=("ai.example.com",)))
    assert the(emission, "HTTPRoute")["spec"] == {
        "parentRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai", "namespace": "edge"}
        ],
        "hostnames": ["ai.example.com"],
        "rules": [
            {
                "matches": [{"headers": [{"type": "Exact", "name": MODEL, "value": "qwen"}]}],
                "backendRefs": [{"group": INFERENCE, "kind": "InferencePool", "name": "qwen"}],
                "timeouts": {"request": "120s"},
            }
        ],
    }
    assert the(emission, "InferencePool")["spec"]["selector"] == {"matchLabels": {"app": "qwen"}}
    assert codes(emission) == ["ModelFromHeader"]


def test_an_unknown_model_gets_404_where_nobody_asked_for_a_default() -> None:
    default = rule(backend(pool("any")), name="default", is_default=True)
    plain, caught = (
        of_kind(emit(router("site", *rules)), "HTTPRoute") for rules in ([QWEN], [QWEN, default])
    )
    assert chosen(plain, {MODEL: "other"}) is None
    reached = chosen(caught, {MODEL: "other"})
    assert reached and reached["backendRefs"][0]["name"] == "any"


def test_the_header_is_an_option() -> None:
    route = the(emit(router("site", QWEN), options=replace(OPTIONS, model_header="x-model")), "HTTPRoute")
    assert route["spec"]["rules"][0]["matches"][0]["headers"][0]["name"] == "x-model"


def test_patterns_are_told_of_since_not_every_gateway_has_them() -> None:
    pii = rule(
        backend(pool("qwen")), name="pii", conditions=(Condition("x-class", ("pii",), ignore_case=True),)
    )
    emission = emit(router("site", pii))
    headers = the(emission, "HTTPRoute")["spec"]["rules"][0]["matches"][0]["headers"]
    assert headers == [{"type": "RegularExpression", "name": "x-class", "value": "^[Pp][Ii][Ii]$"}]
    assert "RegularExpressionMatch" in codes(emission)


@pytest.mark.parametrize("model", ["Küche", "a  b", " a", "x" * 4097])
def test_a_name_that_no_header_match_can_have_is_refused(model: str) -> None:
    emission = emit(router("site", replace(QWEN, models=(model,))))
    assert codes(emission) == ["UnsupportedMatchInGatewayMode"]
    assert emission.objects == ()


def test_more_than_16_headers_are_refused() -> None:
    conditions = tuple(Condition(f"x-{number}", ("yes",)) for number in range(16))
    emission = emit(router("site", replace(QWEN, conditions=conditions)))
    assert [(one.code, one.is_error) for one in emission.findings] == [("TooManyHeaders", True)]


def test_the_rule_that_asks_for_too_many_is_blamed_not_one_that_it_would_go_before() -> None:
    conditions = tuple(Condition(f"x-{number}", ("yes",)) for number in range(16))
    first = rule(backend(pool("pii")), name="pii", conditions=(Condition("x-class", ("pii",)),))
    emission = emit(router("site", first, replace(QWEN, conditions=conditions)))
    (told,) = emission.findings
    assert told.message.startswith("rule qwen asks for 17 headers")
    emission = emit(router("site", first, replace(QWEN, conditions=conditions[1:])))
    (told,) = emission.findings
    assert told.message.startswith("with the later rules that it goes before rule pii asks for 17 headers")


def test_a_long_value_is_told_by_its_beginning() -> None:
    (told,) = emit(router("site", replace(QWEN, models=("x" * 5000,)))).findings
    assert "(5000 characters)" in told.message and len(told.message) < 200


def test_a_rule_that_can_never_be_reached_is_told() -> None:
    emission = emit(router("site", rule(backend(pool("all")), name="all"), QWEN))
    assert "RuleNeverReached" in codes(emission)
    assert len(the(emission, "HTTPRoute")["spec"]["rules"]) == 1


def test_thirty_models_are_two_routes_whose_names_keep_the_order() -> None:
    emission = emit(
        router("site", *(rule(backend(pool("p")), name=f"m{one}", models=(f"m{one}",)) for one in range(30)))
    )
    routes = of_kind(emission, "HTTPRoute")
    assert [(one["metadata"]["name"], len(one["spec"]["rules"])) for one in routes] == [
        ("site-00", 16),
        ("site-01", 14),
    ]


def test_long_names_that_begin_alike_have_routes_of_their_own() -> None:
    """Two of 63 characters that differ in the last, with two routes each."""
    rules = [rule(backend(pool("a")), name=f"r{number}", models=(f"m{number}",)) for number in range(30)]
    others = [replace(one, name=f"x{one.name}", models=(f"x{one.models[0]}",)) for one in rules]
    found = emit(router("r" * 62 + "a", *rules), router("r" * 62 + "b", *others))
    names = [one["metadata"]["name"] for one in of_kind(found, "HTTPRoute")]
    assert len(set(names)) == 4 and all(len(name) <= 63 for name in names)
    assert [one.code for one in found.findings if one.is_error] == []


def test_a_pool_in_another_namespace_is_granted() -> None:
    emission = emit(router("site", rule(backend(replace(pool("qwen"), namespace="pools")), models=("qwen",))))
    grant = the(emission, "ReferenceGrant")
    assert grant["metadata"]["namespace"] == "pools"
    assert grant["spec"]["from"][0]["namespace"] == "llm"
    assert grant["spec"]["to"] == [{"group": INFERENCE, "kind": "InferencePool"}]


def test_one_routers_fault_is_not_anothers() -> None:
    emission = emit(router("bad", replace(QWEN, models=("Küche",))), router("good", QWEN))
    assert [one["metadata"]["name"] for one in of_kind(emission, "HTTPRoute")] == ["good"]


# --- timeouts ----------------------------------------------------------------------------------------------


def test_a_backend_with_a_longer_timeout_is_not_cut_short() -> None:
    slow, quick = (backend(pool(name), timeout=limit) for name, limit in (("slow", 600.0), ("quick", 10.0)))
    emission = emit(router("site", rule(slow, quick, models=("m",), strategy=Strategy.WEIGHTED)))
    assert the(emission, "HTTPRoute")["spec"]["rules"][0]["timeouts"] == {"request": "600s"}
    assert "TimeoutShared" in codes(emission)


# --- servers -----------------------------------------------------------------------------------------------


def refs(emission: Emission) -> list[dict[str, Any]]:
    return list(the(emission, "HTTPRoute")["spec"]["rules"][0]["backendRefs"])


def weighted(*backends: Backend) -> Router:
    return router("site", rule(*backends, models=("m",), strategy=Strategy.WEIGHTED))


def test_a_canary_is_two_pools_by_weight_which_istio_gets_wrong() -> None:
    emission = emit(weighted(backend(pool("old"), weight=90), backend(pool("new"), weight=10)))
    assert [(one["name"], one["weight"]) for one in refs(emission)] == [("old", 90), ("new", 10)]
    assert "SeveralPoolsInRule" in codes(emission)


def test_a_backend_that_is_down_gets_no_share() -> None:
    emission = emit(weighted(backend(pool("old"), weight=90), backend(pool("new"), weight=10, down="gone")))
    assert [one["weight"] for one in refs(emission)] == [90, 0]


def test_where_all_pools_are_down_their_pickers_say_so() -> None:
    emission = emit(weighted(*(backend(pool(name), weight=5, down="gone") for name in ("old", "new"))))
    assert [one["weight"] for one in refs(emission)] == [5, 5]


def test_where_all_that_have_no_picker_are_down_a_pool_without_servers_answers_503() -> None:
    emission = emit(router("site", rule(upstream("ollama.llm.svc", down="no pod is ready"), models=("m",))))
    (nobody,) = of_kind(emission, "InferencePool")
    assert refs(emission) == [
        {"group": INFERENCE, "kind": "InferencePool", "name": nobody["metadata"]["name"]}
    ]
    assert nobody["spec"]["selector"]["matchLabels"] == {"fleet-epp.dev/pool": nobody["metadata"]["name"]}
    assert "NoBackendCanServe" in codes(emission)


def test_a_rule_without_backends_refuses_as_it_is_meant_to() -> None:
    emission = emit(router("site", rule(name="pii", conditions=(Condition("x-class", ("pii",)),))))
    assert refs(emission)[0]["name"] == the(emission, "InferencePool")["metadata"]["name"]
    assert codes(emission) == ["ModelFromHeader"]


def test_shares_of_nothing_are_nobodys() -> None:
    emission = emit(weighted(backend(pool("old"), weight=0), backend(pool("new"), weight=0)))
    assert [one["name"].startswith("site-nobody") for one in refs(emission)] == [True]


def test_an_order_of_backends_has_no_form() -> None:
    emission = emit(router("site", rule(backend(pool("first")), backend(pool("second")), models=("m",))))
    (refusal,) = emission.findings
    assert (refusal.code, refusal.is_error, refusal.origin.object) == (
        "UnsupportedFallback",
        True,
        "ModelRouter/llm/site",
    )
    assert emission.objects == ()


def test_pods_serve_alone_where_machines_outside_are_in_their_pool() -> None:
    mixed = pool("qwen", slices=("mac",), hosts=(Host("studio", "192.0.2.20", 8080),))
    emission = emit(router("site", rule(backend(mixed), models=("m",))))
    assert "annotations" not in the(emission, "InferencePool")["metadata"]
    (told,) = [one for one in emission.findings if one.code == "OutsideMachinesLeftOut"]
    assert told.message.startswith("mac, 192.0.2.20 port 8080: ")


def test_hosts_are_a_service_with_a_slice_for_each_port_and_family() -> None:
    hosts = (Host("a", "192.0.2.1", 8080), Host("b", "192.0.2.2", 9000), Host("c", "2001:db8::1", 8080))
    macs = pool("macs", selector={}, slices=(), hosts=hosts, pods=False)
    emission = emit(router("site", rule(backend(macs), models=("m",))))
    assert refs(emission) == [{"group": "", "kind": "Service", "name": "macs", "port": 80}]
    slices = of_kind(emission, "EndpointSlice")
    assert [(one["addressType"], one["ports"]) for one in slices] == [
        ("IPv4", [{"name": "http", "port": 8080}]),
        ("IPv4", [{"name": "http", "port": 9000}]),
        ("IPv6", [{"name": "http", "port": 8080}]),
    ]
    assert of_kind(emission, "InferencePool") == []
    assert "OutsideMachinesWithoutPicker" in codes(emission)


def service(name: str, *ports: dict[str, Any]) -> Documents:
    meta = {"name": name, "namespace": "llm"}
    return Documents([Document({"kind": "Service", "metadata": meta, "spec": {"ports": list(ports)}})])


@pytest.mark.parametrize(
    "known, said, port",
    [
        (service("mac", {"name": "metrics", "port": 9}, {"name": "http", "port": 8081}), "mac:80", 8081),
        (service("mac", {"port": 8082}), "", 8082),
        (Documents([]), "mac:8083", 8083),
        (Documents([]), "", 8080),
    ],
)
def test_a_metal_agents_service_is_asked_at_its_own_port(known: Documents, said: str, port: int) -> None:
    """Not at that of the InferenceService (defect e)."""
    mac = pool("mac", pods=False, service=False)
    emission = emit(router("site", rule(backend(replace(mac, service=said)), models=("m",))), documents=known)
    assert refs(emission) == [{"group": "", "kind": "Service", "name": "mac", "port": port}]


def test_shares_stay_what_they_are_where_one_backend_is_several_services() -> None:
    macs = pool("macs", pods=False, slices=("one", "two"))
    emission = emit(weighted(backend(pool("pods"), weight=3), backend(macs, weight=1)))
    assert [(one["name"], one["weight"]) for one in refs(emission)] == [("pods", 6), ("one", 1), ("two", 1)]


def test_shares_stay_within_the_largest_weight() -> None:
    emission = emit(weighted(backend(pool("a"), weight=3_000_000), backend(pool("b"), weight=1)))
    assert [one["weight"] for one in refs(emission)] == [1_000_000, 1]


@pytest.mark.parametrize(
    "host, service_name, namespace",
    [("ollama.llm.svc", "ollama", None), ("ollama.tools.svc.cluster.local", "ollama", "tools")],
)
def test_a_service_in_the_cluster_is_named(host: str, service_name: str, namespace: str | None) -> None:
    (one,) = refs(emit(router("site", rule(upstream(host), models=("m",)))))
    assert (one["kind"], one["name"], one.get("namespace"), one["port"]) == (
        "Service",
        service_name,
        namespace,
        8000,
    )


@pytest.mark.parametrize(
    "server, code, word",
    [
        (upstream("api.openai.com", tls=True, secret="key"), "UnsupportedProvider", "with a key"),
        (upstream("api.anthropic.com", schema=Schema.ANTHROPIC), "UnsupportedProvider", "Anthropic"),
        (upstream("llm.example.com"), "HostNeedsAddress", "is a name"),
        (upstream("192.0.2.7", model="other"), "UnsupportedModelOverride", "the model other"),
        (upstream("192.0.2.7", prefix="/openai"), "UnsupportedProvider", "asked at /openai"),
    ],
)
def test_what_only_an_ai_gateway_can_ask_is_refused(server: Backend, code: str, word: str) -> None:
    emission = emit(router("site", rule(server, models=("m",))))
    assert codes(emission) == [code]
    assert word in emission.findings[0].message
    assert emission.findings[0].fix


def test_a_host_outside_by_its_address_is_a_service_of_ours() -> None:
    emission = emit(router("site", rule(upstream("192.0.2.7", port=11434), models=("m",))))
    (slice_,) = of_kind(emission, "EndpointSlice")
    assert (slice_["endpoints"][0]["addresses"], slice_["ports"][0]["port"]) == (["192.0.2.7"], 11434)
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == refs(emission)[0]["name"]


# --- names of models ---------------------------------------------------------------------------------------


def rewrites(emission: Emission) -> list[dict[str, Any]]:
    return [rewrite["spec"] for rewrite in of_kind(emission, "InferenceModelRewrite")]


def asking(name: str, *models: str, model: str = "", **more: Any) -> Rule:
    return rule(backend(pool("qwen"), model=model), name=name, models=models, **more)


def test_a_picker_calls_a_model_as_its_servers_do() -> None:
    emission = emit(router("site", asking("short", "q", model="Qwen/Qwen3-32B"), asking("long", "qwen")))
    assert rewrites(emission) == [
        {
            "poolRef": {"name": "qwen"},
            "rules": [
                {"matches": [{"model": {"value": "q"}}], "targets": [{"modelRewrite": "Qwen/Qwen3-32B"}]}
            ],
        }
    ]


def test_where_every_name_is_changed_the_one_that_is_not_is_said() -> None:
    emission = emit(router("site", asking("long", "qwen"), asking("any", model="Qwen/Qwen3-32B")))
    assert rewrites(emission)[0]["rules"] == [
        {"matches": [{"model": {"value": "qwen"}}], "targets": [{"modelRewrite": "qwen"}]},
        {"targets": [{"modelRewrite": "Qwen/Qwen3-32B"}]},
    ]


def test_one_name_cannot_be_two_in_one_pool() -> None:
    pii = asking("pii", "qwen", model="qwen-safe", conditions=(Condition("x-class", ("pii",)),))
    emission = emit(router("site", pii, asking("long", "qwen")))
    assert codes(emission) == ["UnsupportedModelOverride"]
    assert emission.objects == ()


def test_the_older_router_says_what_a_name_becomes() -> None:
    emission = emit(
        router("old", asking("a", "qwen", model="one"), created="2026-01-01T00:00:00Z"),
        router("new", asking("a", "qwen", model="two"), created="2026-02-01T00:00:00Z"),
    )
    assert [(one.code, one.origin.object) for one in emission.findings if one.is_error] == [
        ("UnsupportedModelOverride", "ModelRouter/llm/new")
    ]
    assert rewrites(emission)[0]["rules"][0]["targets"] == [{"modelRewrite": "one"}]


# --- what there is no object for ---------------------------------------------------------------------------

ACCESS = Access(
    Jwt("https://idp.example.com", "https://idp.example.com/jwks.json", "team", "x-team"),
    origin("site"),
    (Allowance("red", ("qwen",)),),
)
BUDGET = Budget("cap", Scope.ROUTER, 1000, 3600, origin("site"))


@pytest.mark.parametrize(
    "more, code",
    [
        ({"access": ACCESS}, "UnsupportedAuth"),
        ({"budgets": (BUDGET,)}, "UnsupportedBudgetScope"),
        ({"audit": True}, "UnsupportedAuditLogInGatewayMode"),
    ],
)
def test_no_object_is_made_without_what_protects_it(more: dict[str, Any], code: str) -> None:
    emission = emit(router("site", QWEN, **more))
    assert codes(emission) == [code]
    assert emission.objects == ()


# --- for any rules and requests ----------------------------------------------------------------------------

models = st.lists(st.sampled_from(["qwen", "phi", "qwen-*", "*", "q*n"]), max_size=3)
conditions = st.lists(
    st.builds(
        Condition,
        st.sampled_from(["x-team", "x-class"]),
        st.sampled_from([("red",), ("red", "blue"), ("pii",)]),
        st.booleans(),
    ),
    max_size=2,
).map(tuple)
many_rules = st.lists(st.tuples(models.map(tuple), conditions), min_size=1, max_size=40)
requests = st.fixed_dictionaries(
    {MODEL: st.sampled_from(["qwen", "phi", "qwen-3", "other", "a/b"])},
    optional={"x-team": st.sampled_from(["red", "Blue"]), "x-class": st.sampled_from(["pii", "PII"])},
)


@given(wanted=many_rules, tried=st.lists(requests, min_size=1, max_size=8))
def test_any_rules_are_within_the_limits_and_in_their_order(
    wanted: list[tuple[tuple[str, ...], tuple[Condition, ...]]], tried: list[dict[str, str]]
) -> None:
    rules = [
        rule(backend(pool(f"p{number}")), name=f"r{number}", models=names, conditions=asked)
        for number, (names, asked) in enumerate(wanted)
    ]
    routes = of_kind(emit(router("site", *rules)), "HTTPRoute")
    assert_within_limits(routes)
    for request in tried:
        reached = chosen(routes, request)
        expected = next((f"p{number}" for number, one in enumerate(rules) if _wants(one, request)), None)
        assert (reached["backendRefs"][0]["name"] if reached else None) == expected


def _wants(one: Rule, request: dict[str, str]) -> bool:
    """As LLMKube's proxy decides."""

    model = request[MODEL]
    named = any(fnmatchcase(model, glob) and model.count("/") == glob.count("/") for glob in one.models)
    return (named or not one.models) and all(_holds(asked, request) for asked in one.conditions)


def _holds(asked: Condition, request: dict[str, str]) -> bool:
    value = request.get(asked.header)
    if value is None:
        return False
    return (value.lower() if asked.ignore_case else value) in asked.values
