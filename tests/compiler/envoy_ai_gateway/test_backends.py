"""Which form a rule's backends take, and what becomes of those that are down."""

from typing import Any

import pytest

from epp.compiler.findings import Severity
from epp.compiler.intent import Backend, Host, Pool, Schema, Strategy
from epp.compiler.options import Target
from tests.compiler.envoy_ai_gateway.made import NEW, OLD, document, machines, made, provider
from tests.compiler.makers import backend, origin, pool, router, rule


def refs(*backends: Backend, **more: Any) -> list[dict[str, Any]]:
    """Without what names are made unique with."""
    (found,) = made(router("mr", rule(*backends, name="r", models=("qwen",), **more))).rules
    return [{**one, "name": one["name"].removeprefix("mr-")[:-7]} for one in found["backendRefs"]]


def test_pods_and_a_mac_are_one_pool() -> None:
    found = made(
        router("mr", rule(backend(pool("cuda")), backend(pool("mac", pods=False)), models=("qwen",)))
    )
    ((ref,),) = [one["backendRefs"] for one in found.rules]
    assert ref["kind"] == "InferencePool" and set(ref) == {"group", "kind", "name"}
    (made_pool,) = found.all("InferencePool")
    assert made_pool["metadata"]["name"] == ref["name"]
    assert made_pool["metadata"]["annotations"]["aigateway.envoyproxy.io/processing-body-mode"] == "duplex"
    assert not found.all("AIServiceBackend")


def test_a_provider_beside_a_pool_is_a_backend_beside_a_backend() -> None:
    """A rule has a pool or AIServiceBackends, never both."""
    assert refs(backend(pool("cuda")), provider("openai", model="gpt-4o")) == [
        {"name": "cuda", "weight": 1, "priority": 0},
        {"name": "openai", "modelNameOverride": "gpt-4o", "weight": 1, "priority": 1},
    ]


def test_one_that_is_down_keeps_its_place_without_weight_and_the_others_count_from_0() -> None:
    assert refs(provider("one", down="gone"), provider("two"), provider("three")) == [
        {"name": "one", "weight": 0, "priority": 0},
        {"name": "two", "weight": 1, "priority": 0},
        {"name": "three", "weight": 1, "priority": 1},
    ]
    assert refs(provider("one"), provider("two", down="gone"), provider("three")) == [
        {"name": "one", "weight": 1, "priority": 0},
        {"name": "two", "weight": 0, "priority": 0},
        {"name": "three", "weight": 1, "priority": 1},
    ]


def test_weights_are_shares_and_have_no_priority() -> None:
    weighted = {"strategy": Strategy.WEIGHTED}
    assert refs(provider("one", weight=90), provider("two", weight=10), **weighted) == [
        {"name": "one", "weight": 90},
        {"name": "two", "weight": 10},
    ]
    assert refs(provider("one", weight=90, down="gone"), provider("two", weight=10), **weighted) == [
        {"name": "one", "weight": 0},
        {"name": "two", "weight": 10},
    ]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_with_all_down_nobody_is_asked_and_clients_get_503_at_once(strategy: Strategy) -> None:
    """The name is known to no DNS; with weight 0 alone the gateway would answer 500."""
    dead = provider("one", down="gone"), provider("two", down="asleep")
    found = made(router("mr", rule(*dead, models=("qwen",), strategy=strategy)))
    (rules,) = found.rules
    assert [one["weight"] for one in rules["backendRefs"]] == [0, 0, 1]
    nobody = found.one("Backend", "mr-no-server")
    assert nobody == {"endpoints": [{"fqdn": {"hostname": "no-server.invalid", "port": 80}}]}
    assert "retry" not in found.one("BackendTrafficPolicy")
    told = found.told("NoBackendCanServe")
    assert "503 at once" in told.message and "gone" in told.fix and told.severity is Severity.WARNING


def test_a_rule_without_backends_refuses() -> None:
    (found,) = made(router("mr", rule(name="never", models=("qwen",)))).rules
    assert [one["weight"] for one in found["backendRefs"]] == [1]


def test_a_pool_with_all_down_is_asked_for_a_503_by_its_picker() -> None:
    found = made(router("mr", rule(backend(pool("cuda"), down="scaled to 0"), models=("qwen",))))
    assert [one["kind"] for rule in found.rules for one in rule["backendRefs"]] == ["InferencePool"]
    assert found.codes() == ["NoBackendCanServe"]


def test_another_name_there_takes_the_picker_away() -> None:
    found = made(router("mr", rule(backend(pool("cuda"), model="qwen-2"), models=("qwen",))))
    ((ref,),) = [one["backendRefs"] for one in found.rules]
    assert ref["modelNameOverride"] == "qwen-2" and not found.all("InferencePool")
    assert found.one("Backend") == {
        "endpoints": [{"fqdn": {"hostname": "cuda.llm.svc.cluster.local", "port": 80}}]
    }
    assert "--served-model-name" in found.told("PickerNotAsked").fix


def test_another_name_in_a_pool_that_only_its_picker_knows_is_refused() -> None:
    foreign = Pool("theirs", "llm", origin("theirs"), exists=True)
    found = made(router("mr", rule(Backend("b", foreign, origin("b"), model="x"), models=("qwen",))))
    assert found.codes() == ["PoolNotReachable"] and not found.rules


@pytest.mark.parametrize(
    "target, grants, is_picked", [(OLD, 2, False), (NEW, 2, True), (NEW, 1, False), (NEW, 0, False)]
)
def test_a_pool_of_another_namespace_needs_two_grants_and_1_1(
    target: Target, grants: int, is_picked: bool
) -> None:
    other = Pool("cuda", "gpu", origin("cuda"), selector={"app": "cuda"}, ports=(8000,), service="cuda:80")
    kinds = [("aigateway.envoyproxy.io", "AIGatewayRoute"), ("gateway.networking.k8s.io", "HTTPRoute")]
    spec = {
        "from": [{"group": group, "kind": kind, "namespace": "llm"} for group, kind in kinds[:grants]],
        "to": [{"group": "inference.networking.k8s.io", "kind": "InferencePool"}],
    }
    grant = document("ReferenceGrant", "pools", namespace="gpu", spec=spec)
    asked = rule(Backend("cuda", other, origin("cuda")), models=("qwen",))
    found = made(router("mr", asked), target=target, around=(grant,))
    ((ref,),) = [one["backendRefs"] for one in found.rules]
    if is_picked:
        assert (ref["kind"], ref["namespace"]) == ("InferencePool", "gpu")
    else:
        assert found.one("Backend")["endpoints"][0]["fqdn"]["hostname"] == "cuda.gpu.svc.cluster.local"
        assert found.codes() == ["PickerNotAsked"]


def test_alone_a_machine_is_asked_at_its_address() -> None:
    found = made(router("mr", rule(machines("mac", "10.0.0.21", model="q"), models=("qwen",))))
    assert found.one("Backend") == {"endpoints": [{"ip": {"address": "10.0.0.21", "port": 8080}}]}


@pytest.mark.parametrize("address", ["fd00::1", "fd00::1:2:3", "2001:db8::"])
def test_addresses_of_version_6_are_written_in_full(address: str) -> None:
    """The CRD knows few of the short forms."""
    found = made(router("mr", rule(machines("mac", address, model="q"), models=("qwen",))))
    assert len(found.one("Backend")["endpoints"][0]["ip"]["address"]) == 39


def test_beside_others_a_machine_has_a_name() -> None:
    """Priorities count among names only; a Service without a cluster IP hides no death."""
    asked = rule(machines("mac", "10.0.0.21", "10.0.0.22"), provider("openai"), models=("qwen",))
    found = made(router("mr", asked, rule(machines("mac", "10.0.0.21", "10.0.0.22"), models=("llama",))))
    ((endpoint,),) = [
        one["spec"]["endpoints"]
        for one in found.all("Backend")
        if one["metadata"]["name"].startswith("mr-mac")
    ]
    service = endpoint["fqdn"]["hostname"].partition(".")[0]
    (headless,) = [one for one in found.all("Service") if one["metadata"]["name"] == service]
    assert headless["spec"]["clusterIP"] == "None" and endpoint["fqdn"]["port"] == 8080
    (addresses,) = [
        [address for one in slice_["endpoints"] for address in one["addresses"]]
        for slice_ in found.all("EndpointSlice")
        if slice_["metadata"]["labels"]["kubernetes.io/service-name"] == service
    ]
    assert addresses == ["10.0.0.21", "10.0.0.22"]


def test_what_an_agent_wrote_into_a_slice_is_asked_and_not_the_cluster_ip_before_it() -> None:
    """kube-proxy hides the death of a host behind a cluster IP."""
    mac = backend(pool("mac", pods=False), model="q")
    slice_ = document(
        "EndpointSlice",
        "mac",
        namespace="llm",
        labels={"kubernetes.io/service-name": "mac"},
        endpoints=[
            {"addresses": ["10.0.0.21"], "conditions": {"ready": True}},
            {"addresses": ["10.0.0.22"], "conditions": {"ready": False}},
        ],
        ports=[{"name": "http", "port": 51234}],
    )
    asked = router("mr", rule(mac, models=("qwen",)))
    there = made(asked, around=(slice_,)).one("Backend")
    assert there == {"endpoints": [{"ip": {"address": "10.0.0.21", "port": 51234}}]}
    blind = made(asked)
    assert blind.one("Backend")["endpoints"][0]["fqdn"]["hostname"] == "mac.llm.svc.cluster.local"
    assert "DeathHidden" in blind.codes() and "DeathHidden" not in made(asked, around=(slice_,)).codes()


@pytest.mark.parametrize(
    "host, what",
    [
        ("127.0.0.1", "whichever machine Envoy runs on"),
        ("::1", "whichever"),
        ("studio", "two words or more"),
        ("my_mac.lan", "a-z"),
        ("fe80::1%en0", "no host name"),
    ],
)
def test_hosts_that_envoy_gateway_takes_for_invalid_are_refused(host: str, what: str) -> None:
    found = made(router("mr", rule(provider("mac", host=host), models=("qwen",))))
    assert found.codes() == ["InvalidHost"] and what in found.told("InvalidHost").message


def test_one_name_for_two_servers_is_two_backends() -> None:
    one, two = provider("gpu", host="one.example.com"), provider("gpu", host="two.example.com")
    found = made(router("mr", rule(one, name="a", models=("a",)), rule(two, name="b", models=("b",))))
    names = [one["backendRefs"][0]["name"] for one in found.rules]
    assert len(set(names)) == 2 and {one["metadata"]["name"] for one in found.all("Backend")} == set(names)


@pytest.mark.parametrize(
    "schema, expected, credentials",
    [
        (Schema.OPENAI, {"name": "OpenAI", "prefix": "/v1"}, {"type": "APIKey", "apiKey": "key"}),
        (
            Schema.ANTHROPIC,
            {"name": "Anthropic", "prefix": "/v1"},
            {"type": "AnthropicAPIKey", "anthropicAPIKey": "key"},
        ),
        (
            Schema.AZURE,
            {"name": "AzureOpenAI", "version": "2025-01-01-preview"},
            {"type": "AzureAPIKey", "azureAPIKey": "key"},
        ),
        (Schema.COHERE, {"name": "Cohere"}, {"type": "APIKey", "apiKey": "key"}),
    ],
)
@pytest.mark.parametrize("target", [OLD, NEW])
def test_a_provider_is_asked_in_its_words_over_tls_with_its_key(
    schema: Schema, expected: dict[str, str], credentials: dict[str, str], target: Target
) -> None:
    there = provider("it", port=443, tls=True, schema=schema, secret="key")
    found = made(router("mr", rule(there, models=("qwen",))), target=target)
    assert found.one("AIServiceBackend")["schema"] == expected
    tls = found.one("BackendTLSPolicy")
    assert tls["validation"] == {"hostname": "it.example.com", "wellKnownCACertificates": "System"}
    assert tls["targetRefs"][0]["name"] == found.one("AIServiceBackend")["backendRef"]["name"]
    key = found.one("BackendSecurityPolicy")
    assert key["type"] == credentials["type"]
    field = next(name for name in credentials if name != "type")
    assert key[field] == {"secretRef": {"name": "key"}}


def test_bedrock_is_asked_in_a_region() -> None:
    there = provider("aws", port=443, tls=True, schema=Schema.BEDROCK, region="eu-central-1")
    assert made(router("mr", rule(there, models=("q",)))).one("BackendSecurityPolicy")["awsCredentials"] == {
        "region": "eu-central-1"
    }
    nowhere = provider("aws", port=443, tls=True, schema=Schema.BEDROCK)
    assert made(router("mr", rule(nowhere, models=("q",)))).codes() == ["UnsupportedProvider"]


def test_vertex_wants_a_project_that_nothing_names() -> None:
    there = provider("gcp", schema=Schema.VERTEX, secret="key")
    assert made(router("mr", rule(there, models=("q",)))).codes() == ["UnsupportedProvider"]


def test_certificates_are_verified_against_a_name() -> None:
    there = provider("lan", host="10.0.0.3", tls=True)
    assert made(router("mr", rule(there, models=("q",)))).codes() == ["InvalidHost"]


def test_somebody_elses_pool_that_buffers_is_told() -> None:
    mode = {"annotations": {"aigateway.envoyproxy.io/processing-body-mode": "buffered"}}
    there = document("InferencePool", "theirs", namespace="llm", metadata=mode, spec={})
    foreign = Backend("b", Pool("theirs", "llm", origin("theirs"), exists=True), origin("b"))
    found = made(router("mr", rule(foreign, models=("qwen",))), around=(there,))
    assert found.codes() == ["PoolBuffersBodies"] and not found.all("InferencePool")


def test_a_rule_has_at_most_16_backends() -> None:
    many = [provider(f"b{number}") for number in range(17)]
    assert made(router("mr", rule(*many, models=("q",)))).codes() == ["TooManyBackends"]
    assert made(router("mr", rule(*many[:16], models=("q",)))).codes() == []


@pytest.mark.parametrize("target", [OLD, NEW])
def test_chat_is_not_translated_into_anthropics_words(target: Target) -> None:
    """Alone it serves who asks in those; beside others its 500 would be the end of the fallback."""
    claude = provider("claude", schema=Schema.ANTHROPIC)
    alone = made(router("mr", rule(claude, models=("claude",))), target=target)
    assert alone.codes() == ["MessagesOnly"] and "/anthropic/v1/messages" in alone.findings[0].message
    beside = made(router("mr", rule(provider("a"), claude, models=("claude",))), target=target)
    assert beside.codes() == ["UnsupportedProvider"] and not beside.documents[1:]


@pytest.mark.parametrize(
    "schema, region, key",
    [(Schema.OPENAI, "", "apiKey"), (Schema.AZURE, "", "apiKey"), (Schema.BEDROCK, "eu-1", "credentials")],
)
def test_which_key_of_a_secret_is_read_is_told(schema: Schema, region: str, key: str) -> None:
    there = provider("it", schema=schema, secret="provider-key", region=region)
    told = made(router("mr", rule(there, models=("qwen",)))).told("SecretKeys")
    assert f"{key} of Secret provider-key" in told.message


def test_a_pool_with_one_of_two_down_can_serve() -> None:
    down, well = backend(pool("mac", pods=False), down="gone"), backend(pool("cuda"))
    for backends in ((down, well), (well, down)):
        assert "NoBackendCanServe" not in made(router("mr", rule(*backends, models=("qwen",)))).codes()


def test_servers_that_nobody_can_find_are_refused() -> None:
    """A host whose slice is not there, and no Service of it is known."""
    lost = backend(pool("mac", pods=False, service=False))
    found = made(router("mr", rule(lost, provider("openai"), models=("qwen",))))
    assert found.codes() == ["ServersNotKnown"] and not found.rules


def test_machines_have_no_service_of_pods() -> None:
    """One that selects nothing would have the endpoints of whoever writes a slice for it."""
    hosts = (Host("mini", "10.0.0.21", 8080),)
    macs = Backend("mac", Pool("mac", "llm", origin("mac"), ports=(8080,), hosts=hosts), origin("mac"))
    found = made(router("mr", rule(macs, provider("openai"), models=("qwen",))))
    (service,) = found.all("Service")
    (slice_,) = found.all("EndpointSlice")
    assert "selector" not in service["spec"]
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
