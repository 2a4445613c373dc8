"""Sets of servers as objects."""

from dataclasses import replace
from typing import Any

import pytest

from epp.compiler import pools, ports
from epp.compiler.documents import Document, Documents
from epp.compiler.emission import Emitted
from epp.compiler.intent import Host, Pool, Strategy, Upstream
from epp.compiler.options import Options, Target
from tests.compiler.makers import backend, origin, pool, router, rule

OPTIONS = Options(Target.GATEWAY_API)
CUDA, METAL = pool("qwen-cuda"), pool("qwen-metal", pods=False)
STUDIO = Host("Mac Studio", "192.0.2.20", 8080)


def made_of(*wanted: Pool, there: tuple[Document, ...] = (), options: Options = OPTIONS) -> dict[str, Any]:
    emitted, findings = pools.objects(wanted, Documents(there), options)
    assert not findings
    return {f"{one.key[0]} {one.key[2]}": one.document for one in emitted}


def annotation(document: dict[str, Any]) -> str:
    return str(document["metadata"].get("annotations", {}).get(pools.SLICES, ""))


# --- one pool out of several backends ------------------------------------------------------------------


def test_pods_and_a_mac_are_one_pool() -> None:
    joined = pools.merge(rule(backend(CUDA), backend(METAL)))
    assert joined is not None
    assert (joined.selector, joined.slices, joined.ports) == ({"app": "qwen-cuda"}, ("qwen-metal",), (8000,))


def test_the_same_backends_are_the_same_pool_whatever_the_rule() -> None:
    one, other = (
        pools.merge(rule(backend(CUDA), backend(METAL), name=name, of=origin(name))) for name in ("a", "b")
    )
    assert one and other and one.name == other.name
    alone = pools.merge(rule(backend(METAL)))
    assert alone and alone.name == "qwen-metal"


def test_the_second_pods_are_found_by_their_service() -> None:
    joined = pools.merge(rule(backend(CUDA), backend(pool("phi"))))
    assert joined and joined.slices == ("phi",)
    assert pools.merge(rule(backend(CUDA), backend(pool("phi", service=False)))) is None


def test_a_picker_cannot_choose_among_these() -> None:
    provider = Upstream("api.example.com", 443, origin("x"), tls=True)
    elsewhere = replace(METAL, namespace="other")
    assert pools.merge(rule(backend(CUDA), replace(backend(CUDA), servers=provider))) is None
    assert pools.merge(rule(backend(CUDA), backend(elsewhere))) is None
    assert pools.merge(rule(backend(CUDA), backend(METAL), strategy=Strategy.WEIGHTED)) is None
    assert pools.merge(rule(backend(CUDA), backend(replace(METAL, exists=True)))) is None


def test_the_order_of_backends_is_the_picker_s_to_keep_and_that_is_told() -> None:
    both = rule(backend(CUDA), backend(METAL))
    joined = pools.merge(both)
    assert joined
    ((key, told),) = pools.shared_by_load(router("r", rule(backend(CUDA)), both))
    assert key == ("InferencePool", "llm", joined.name)
    assert told.code == "PickerSharesByLoad" and "to have qwen-cuda first" in told.fix


# --- its objects ---------------------------------------------------------------------------------------


def test_a_pool_names_its_pods_and_its_port() -> None:
    made = made_of(CUDA)
    spec = made["InferencePool qwen-cuda"]["spec"]
    assert spec["selector"] == {"matchLabels": {"app": "qwen-cuda"}}
    assert spec["targetPorts"] == [{"number": 8000}]
    port = spec["endpointPickerRef"]["port"]["number"]
    assert spec["endpointPickerRef"]["name"] == "fleet-epp-pools"
    assert made["Service fleet-epp-pools"]["spec"] == {
        "selector": {"inferencepool": "fleet-epp"},
        "ports": [{"name": f"pool-{port}", "port": port, "targetPort": port}],
    }


def test_a_pool_without_pods_selects_none() -> None:
    document = made_of(METAL)["InferencePool qwen-metal"]
    assert document["spec"]["selector"]["matchLabels"] == {pools.BELONGS: "qwen-metal"}
    assert annotation(document) == "kubernetes.io/service-name in (qwen-metal)"


def test_hosts_are_a_service_without_pods() -> None:
    mini = Host("mini", "2001:db8::7", 8081)
    made = made_of(replace(CUDA, hosts=(STUDIO, replace(STUDIO, name="air", address="192.0.2.21"), mini)))
    assert made["Service qwen-cuda"]["spec"] == {
        "clusterIP": "None",
        "ports": [{"name": "http-8080", "port": 8080}, {"name": "http-8081", "port": 8081}],
    }
    four, six = (one for name, one in made.items() if name.startswith("EndpointSlice"))
    assert [one["addresses"] for one in four["endpoints"]] == [["192.0.2.20"], ["192.0.2.21"]]
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert four["metadata"]["labels"] == {"kubernetes.io/service-name": "qwen-cuda"}
    assert annotation(made["InferencePool qwen-cuda"]) == "kubernetes.io/service-name in (qwen-cuda)"


def test_a_host_has_an_address() -> None:
    by_name = replace(METAL, hosts=(replace(STUDIO, address="studio.local"),))
    _, (told,) = pools.objects([by_name], Documents(()), OPTIONS)
    assert (told.code, told.is_error) == ("HostNeedsAddress", True)


def test_a_pool_that_somebody_made_is_left_alone() -> None:
    assert made_of(replace(CUDA, exists=True)) == {}


def test_pools_of_two_namespaces_have_a_picker_each() -> None:
    emitted, _ = pools.objects([CUDA, replace(METAL, namespace="other")], Documents(()), OPTIONS)
    assert sorted(one.key for one in emitted if one.key[0] == "Service") == [
        ("Service", "llm", "fleet-epp-pools"),
        ("Service", "other", "fleet-epp-pools"),
    ]


def test_a_pool_of_two_rules_is_there_for_both() -> None:
    again = replace(CUDA, origin=origin("second"))
    emitted, _ = pools.objects([CUDA, again], Documents(()), OPTIONS)
    (one,) = (one for one in emitted if one.key[0] == "InferencePool")
    assert [source.name for source in one.sources] == ["qwen-cuda", "second"]


def test_a_pool_that_is_there_keeps_its_port_and_the_port_of_one_that_goes_stays_open() -> None:
    emitted, _ = pools.objects([CUDA, METAL], Documents(()), OPTIONS)
    before = {one.key[2]: one for one in emitted}
    there = tuple(Document(one.document) for one in emitted)
    made = made_of(METAL, there=there)
    assert made["InferencePool qwen-metal"] == before["qwen-metal"].document
    assert made["Service fleet-epp-pools"] == before["fleet-epp-pools"].document


def test_there_is_a_port_for_every_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "COUNT", 1)
    _, (told,) = pools.objects([CUDA, METAL], Documents(()), OPTIONS)
    assert told.code == "TooManyPools" and "namespace llm: 2 pools and 1 ports" in told.message


def test_many_pools_of_one_namespace_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MANY", 2)
    assert pools.objects([CUDA, CUDA], Documents(()), OPTIONS)[1] == []
    _, (told,) = pools.objects([CUDA, METAL], Documents(()), OPTIONS)
    assert (told.code, told.severity) == ("ManyPools", "info")
    assert "namespace llm has 2 pools" in told.message


def test_envoy_ai_gateway_streams_bodies() -> None:
    options = Options(Target.ENVOY_AI_GATEWAY_1_1)
    meta = made_of(CUDA, options=options)["InferencePool qwen-cuda"]["metadata"]
    assert meta["annotations"] == {"aigateway.envoyproxy.io/processing-body-mode": "duplex"}


def test_it_is_emitted_for_its_sources() -> None:
    emitted, _ = pools.objects([CUDA], Documents(()), OPTIONS)
    assert all(isinstance(one, Emitted) and one.sources == (CUDA.origin,) for one in emitted)


def test_machines_of_other_labels_are_in_another_slice() -> None:
    """A slice's labels are its endpoints', as the picker reads them."""
    hosts = (
        Host("a", "10.0.0.1", 8080),
        Host("b", "10.0.0.2", 8080, {"fleet-epp.dev/tier": "1"}),
        Host("c", "10.0.0.3", 8080),
    )
    (_, plain, second), _ = pools.headless(pool("macs", pods=False, hosts=hosts), (origin("r"),))
    assert [len(one.document["endpoints"]) for one in (plain, second)] == [2, 1]
    assert "fleet-epp.dev/tier" not in plain.document["metadata"]["labels"]
    assert second.document["metadata"]["labels"]["fleet-epp.dev/tier"] == "1"
    assert plain.key != second.key


def test_the_order_of_labels_is_none() -> None:
    """Two slices of one set of labels would be one name for two objects."""
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    hosts = Host("a", "10.0.0.1", 80, one), Host("b", "10.0.0.2", 80, other)
    (_, only), _ = pools.headless(pool("macs", pods=False, hosts=hosts), (origin("r"),))
    assert len(only.document["endpoints"]) == 2


def test_pools_of_one_name_in_two_namespaces_are_two() -> None:
    """Each with its own servers, beside a picker's Service with its ports alone."""
    elsewhere = replace(METAL, name="qwen-cuda", namespace="other")
    emitted, findings = pools.objects([CUDA, elsewhere, replace(CUDA, name="phi")], Documents(()), OPTIONS)
    assert not findings
    found = {one.key: one.document["spec"] for one in emitted}
    names = {"llm": ["phi", "qwen-cuda"], "other": ["qwen-cuda"]}
    assert sorted(key[1:] for key in found if key[0] == "InferencePool") == [
        (namespace, name) for namespace, here in sorted(names.items()) for name in here
    ]
    assert found["InferencePool", "other", "qwen-cuda"]["selector"]["matchLabels"] == {
        pools.BELONGS: "qwen-cuda"
    }
    for namespace, here in names.items():
        asked = {
            found["InferencePool", namespace, name]["endpointPickerRef"]["port"]["number"] for name in here
        }
        opened = {one["port"] for one in found["Service", namespace, "fleet-epp-pools"]["ports"]}
        assert opened == asked


def test_machines_alone_are_asked_at_their_ports() -> None:
    macs = pool("macs", pods=False, slices=(), hosts=(STUDIO, Host("mini", "192.0.2.21", 9000)))
    spec = made_of(macs)["InferencePool macs"]["spec"]
    assert spec["targetPorts"] == [{"number": 8080}, {"number": 9000}]
    assert made_of(METAL)["InferencePool qwen-metal"]["spec"]["targetPorts"] == [{"number": 8000}]


def test_a_pool_of_somebody_else_keeps_no_port_of_ours() -> None:
    """Of another picker, with a port that says nothing, or none at all."""
    own = made_of(CUDA)["InferencePool qwen-cuda"]
    port = own["spec"]["endpointPickerRef"]["port"]["number"]

    def there(reference: dict[str, Any], namespace: str = "llm") -> Document:
        meta = {"name": "theirs", "namespace": namespace}
        return Document({**own, "metadata": meta, "spec": {**own["spec"], "endpointPickerRef": reference}})

    ours = own["spec"]["endpointPickerRef"]
    for odd in (
        there({**ours, "name": "their-picker"}),
        there({"name": ours["name"]}),
        there({**ours, "port": {"number": "9100"}}),
        there(ours, namespace="other"),
    ):
        found = made_of(CUDA, there=(odd,))
        assert [one["port"] for one in found["Service fleet-epp-pools"]["spec"]["ports"]] == [port]
    (kept, moved) = sorted(
        one["port"] for one in made_of(CUDA, there=(there(ours),))["Service fleet-epp-pools"]["spec"]["ports"]
    )
    assert kept == port and moved == port + 1, "the port of theirs stays, and ours is another"
