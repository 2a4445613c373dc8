"""What is kept from compilation to compilation: the same comes of it as from nothing, and no more is kept."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.intent import GatewayRef
from epp.compiler.memory import Memory, Result, plainly
from epp.compiler.options import Options, Target
from tests.compiler.llmkube.cluster import to

# --- calls ---------------------------------------------------------------------------------------------


class Thing:
    """Known by itself, since it is like every other."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 0


class Calls:
    """Which of them were made."""

    def __init__(self) -> None:
        self.made: list[tuple[object, ...]] = []

    def name(self, *inputs: object) -> list[object]:
        self.made.append(inputs)
        return list(inputs)


def see(_: Thing) -> None:
    """It keeps nothing."""


def test_a_call_is_made_once_for_the_same_objects() -> None:
    calls, memory, one, other = Calls(), Memory(), Thing(), Thing()
    function = calls.name
    with memory as call:
        first = call(function, one, other, "text", 1)
        assert call(function, one, other, str(b"text", "ascii"), int("1")) is first
        call(function, other, one, "text", 1)
        call(function, one, other, "text", 2)
        call(function, one, other, "text", id(one))
        call(function, one, id(other), "text", 1)
        call(function, one, other, "text", "1")
    assert len(calls.made) == memory.size == 6
    with memory as call:
        assert call(function, one, other, "text", 1) is first
    assert len(calls.made) == 6 and memory.size == 1


def test_what_is_not_asked_for_is_given_free() -> None:
    memory, thing = Memory(), Thing()
    seen = weakref.ref(thing)
    with memory as call:
        call(see, thing)
    del thing
    gc.collect()
    assert seen() is not None, "its id may be another's by now"
    with memory:
        pass
    gc.collect()
    assert seen() is None and memory.size == 0


def test_a_call_that_fails_is_made_again() -> None:
    def fail(text: str) -> str:
        raise ValueError(text)

    memory = Memory()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), memory as call:
            call(fail, "no")
    assert memory.size == 0
    assert plainly(str.upper, "a") == "A"


# --- compilations --------------------------------------------------------------------------------------

NAMES, HOMES = ("a", "b"), ("llm", "llm", "llm", "lab")
NOON = 1_900_000_000.0
GATEWAY = {"name": "ai", "namespace": "llm"}
LLMKUBE = "inference.llmkube.dev/v1alpha1"


def document(kind: str, name: str, namespace: str, *, api: str = LLMKUBE, **more: Any) -> Document:
    age = {"a": "2026-01-01", "b": "2026-01-02"}.get(name, "2026-01-03")
    meta = {"name": name, "namespace": namespace, "uid": f"{kind}-{namespace}-{name}", **more.pop("meta", {})}
    meta["creationTimestamp"] = f"{age}T00:00:00Z"
    return Document({"apiVersion": api, "kind": kind, "metadata": meta, **more})


@st.composite
def models(draw: st.DrawFn) -> Document:
    accelerator = draw(st.sampled_from(["cuda", "metal", 7]))
    more = draw(st.sampled_from([{}, {"surce": "x"}]))
    spec = {"hardware": {"accelerator": accelerator}, **more}
    return document("Model", draw(st.sampled_from(NAMES)), draw(st.sampled_from(HOMES)), spec=spec)


@st.composite
def services(draw: st.DrawFn) -> Document:
    spec: dict[str, Any] = {"modelRef": draw(st.sampled_from(NAMES))}
    if draw(st.booleans()):
        named = draw(st.sampled_from([{}, {"modelName": "shared"}, {"modelName": "chat"}]))
        spec["endpoint"] = {"port": 8080, "gateway": {"enabled": True, "gatewayRef": GATEWAY, **named}}
    phase = draw(st.sampled_from(["Ready", "Failed", "Creating"]))
    status = draw(st.sampled_from([{"phase": phase}, {"phase": phase, "readyReplicas": 1}, {"phase": 3}]))
    claim = draw(st.sampled_from([{}, {"annotations": {"fleet-epp.dev/claim": "false"}}]))
    name, home = draw(st.sampled_from(NAMES)), draw(st.sampled_from(HOMES))
    return document("InferenceService", name, home, spec=spec, status=status, meta=claim)


@st.composite
def routers(draw: st.DrawFn) -> Document:
    cloud = {"provider": "openai", "url": "https://api.example.com/v1", "model": "large"}
    backends = [to(name) for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))]
    backends.append({"name": "cloud", "tier": "cloud", "external": cloud})
    rules = []
    for number in range(draw(st.integers(1, 3))):
        match: dict[str, Any] = draw(
            st.sampled_from([{}, {"models": ["chat"]}, {"models": ["a", "shared"]}, {"models": ["g*"]}])
        )
        match = {**match, **draw(st.sampled_from([{}, {"dataClassification": ["pii"]}]))}
        picked = draw(st.lists(st.sampled_from(backends), min_size=1, max_size=2, unique_by=str))
        closed = draw(st.booleans())
        route = {"backends": [one["name"] for one in picked]}
        rules.append({"name": f"r{number}", "match": match, "route": route, "failClosed": closed})
    plane = draw(st.sampled_from(["Gateway", "Gateway", "Gateway", "AgentGateway", "Proxy", "none"]))
    spec: dict[str, Any] = {"dataPlane": plane, "backends": backends, "rules": rules, "gatewayRef": GATEWAY}
    if draw(st.booleans()):
        budget = {"name": "day", "scope": "Router", "limit": 1000, "window": "24h"}
        spec["policy"] = {"budgets": [budget]}
    return document("ModelRouter", draw(st.sampled_from(NAMES)), draw(st.sampled_from(HOMES)), spec=spec)


@st.composite
def agents(draw: st.DrawFn) -> Document:
    name, home = draw(st.sampled_from(NAMES)), draw(st.sampled_from(HOMES))
    beat = draw(st.sampled_from(["2030-03-17T17:46:30Z", "2026-01-01T00:00:00Z", ""]))
    labels = {"kubernetes.io/service-name": name, "llmkube.ai/inference-service": name}
    meta = {"labels": labels, "annotations": {"llmkube.ai/agent-heartbeat": beat}}
    ready = {"ready": draw(st.booleans())}
    endpoints = [{"addresses": ["192.0.2.20"], "conditions": ready}]
    ports = [{"name": "http", "port": draw(st.sampled_from([52001, 52002]))}]
    api = "discovery.k8s.io/v1"
    return document("EndpointSlice", name, home, api=api, meta=meta, endpoints=endpoints, ports=ports)


@st.composite
def fleets(draw: st.DrawFn) -> Document:
    part = st.sampled_from(
        [
            {"name": "chat", "pods": {"app": "chat"}},
            {"name": "qwen", "hosts": ["192.0.2.30:8080"]},
            {"name": "qwen", "hosts": ["192.0.2.30:8080", "192.0.2.31:8080"], "owner": "ops"},
            {"name": "gemma", "pods": {"app": "gemma"}, "aliases": ["shared"]},
            {"name": "far", "backends": ["partner"]},
            {"name": "wrong", "prot": 1},
        ]
    )
    more = draw(st.sampled_from([{}, {"hostnames": ["ai.example.com"]}, {"hostnames": ["*.example.com"]}]))
    partner = {"url": draw(st.sampled_from(["https://api.example.com/v1", "http://127.0.0.1:8000/v1"]))}
    content = {
        "gateway": "llm/ai",
        "models": draw(st.lists(part, min_size=1, max_size=3, unique_by=lambda one: one["name"])),
        "backends": {"partner": partner},
        **draw(st.sampled_from([{}, {"sensitive": {"classes": ["pii"]}}, {"defaultModel": "chat"}])),
        **more,
    }
    name, home = draw(st.sampled_from(NAMES)), draw(st.sampled_from(HOMES))
    return document("Fleet", name, home, api="fleet-epp.dev/v1alpha1", **content)


@st.composite
def surroundings(draw: st.DrawFn) -> Document:
    """Gateways with what hangs on them, and pools that are there."""
    listener = {"name": "http", "port": 80, "hostname": "api.example.com"}
    listener["allowedRoutes"] = draw(st.sampled_from([{}, {"namespaces": {"from": "All"}}]))
    of_gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}
    picker = {"name": "fleet-epp-pools", "port": {"number": draw(st.sampled_from([9100, 12345]))}}
    kind = draw(st.sampled_from(["Gateway", "EnvoyProxy", "SecurityPolicy", "AgentgatewayPolicy", "pool"]))
    envoy = "gateway.envoyproxy.io"
    match kind:
        case "Gateway":
            infra = {"infrastructure": {"parametersRef": {"group": envoy, "kind": "EnvoyProxy", "name": "p"}}}
            spec = {"listeners": [listener], **draw(st.sampled_from([{}, infra]))}
            return document("Gateway", "ai", "llm", api="gateway.networking.k8s.io/v1", spec=spec)
        case "EnvoyProxy":
            spec = {"preserveRouteOrder": draw(st.booleans())}
            return document("EnvoyProxy", "p", "llm", api=f"{envoy}/v1alpha1", spec=spec)
        case "SecurityPolicy":
            spec = {"targetRefs": [of_gateway], "jwt": {}}
            return document("SecurityPolicy", "theirs", "llm", api=f"{envoy}/v1alpha1", spec=spec)
        case "AgentgatewayPolicy":
            spec = {"targetRefs": [of_gateway], "traffic": {"jwtAuthentication": {}}}
            return document("AgentgatewayPolicy", "theirs", "llm", api="agentgateway.dev/v1alpha1", spec=spec)
        case _:
            name = draw(st.sampled_from([*NAMES, "chat", "qwen"]))
            api = "inference.networking.k8s.io/v1"
            return document("InferencePool", name, "llm", api=api, spec={"endpointPickerRef": picker})


class Nothing(Memory):
    """Remembers nothing."""

    def __call__(self, function: Callable[..., Result], /, *inputs: object) -> Result:
        return function(*inputs)


OBJECTS = st.one_of(models(), services(), routers(), agents(), fleets(), surroundings())


class Site(RuleBasedStateMachine):
    """Objects come, change and go; each target has its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[tuple[str, str, str], Document] = {}
        self.memories = {target: Memory() for target in Target}
        self.options = {
            target: Options(target, gateway=GatewayRef("ai", "llm"), is_live=True, claim=True)
            for target in Target
        }
        self.now = NOON
        self.before: dict[Target, Compiled] = {}

    @initialize(some=st.lists(OBJECTS, min_size=10, max_size=16))
    def begin(self, some: list[Document]) -> None:
        self.come(some)

    @rule(some=st.lists(OBJECTS, min_size=1, max_size=3))
    def come(self, some: list[Document]) -> None:
        for one in some:
            self.documents[one.kind, one.namespace, one.name] = one

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.documents:
            del self.documents[data.draw(st.sampled_from(sorted(self.documents)))]

    @rule(data=st.data())
    def is_told_again(self, data: st.DataObject) -> None:
        """Another object that says the same."""
        if self.documents:
            key = data.draw(st.sampled_from(sorted(self.documents)))
            self.documents[key] = Document(dict(self.documents[key].content))

    @rule(minutes=st.sampled_from([-10, 1, 10]))
    def time_goes_by(self, minutes: int) -> None:
        self.now += minutes * 60.0

    @rule()
    def nothing(self) -> None: ...

    @invariant()
    def the_same_comes_of_it_as_from_nothing(self) -> None:
        documents = tuple(self.documents.values())
        for target, memory in self.memories.items():
            options, fresh = self.options[target], Memory()
            found = compile_documents(documents, options, memory=memory, now=self.now)
            assert found == compile_documents(documents, options, memory=Nothing(), now=self.now)
            compile_documents(documents, options, memory=fresh, now=self.now)
            assert memory.size == fresh.size


TestSite = Site.TestCase
TestSite.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)


HOW = {"enabled": True, "gatewayRef": GATEWAY}
BEAT = {"llmkube.ai/agent-heartbeat": "2030-03-17T17:46:30Z"}
OF_B = {"kubernetes.io/service-name": "b", "llmkube.ai/inference-service": "b"}


def on(accelerator: str, name: str) -> Document:
    return document("Model", name, "llm", spec={"hardware": {"accelerator": accelerator}})


def exposed(name: str, phase: str = "Ready", **gateway: Any) -> Document:
    spec = {"modelRef": name, "endpoint": {"gateway": {**HOW, **gateway}}}
    return document("InferenceService", name, "llm", spec=spec, status={"phase": phase})


def both(model: str) -> Document:
    rule = {"name": "r", "match": {"models": [model]}, "route": {"backends": ["a", "b"]}}
    spec = {"dataPlane": "Gateway", "gatewayRef": GATEWAY, "backends": [to("a"), to("b")], "rules": [rule]}
    return document("ModelRouter", "c", "llm", spec=spec)


def mac(port: int) -> Document:
    endpoints = [{"addresses": ["192.0.2.20"], "conditions": {"ready": True}}]
    more = {"endpoints": endpoints, "ports": [{"name": "http", "port": port}]}
    meta = {"labels": OF_B, "annotations": BEAT}
    return document("EndpointSlice", "b", "llm", api="discovery.k8s.io/v1", meta=meta, **more)


def far() -> Document:
    """A router that leads to one place outside."""
    cloud = {"provider": "openai", "url": "https://far.example.com/v1", "model": "large"}
    backend = {"name": "cloud", "tier": "cloud", "external": cloud}
    rule = {"name": "r", "match": {"models": ["far"]}, "route": {"backends": ["cloud"]}}
    spec = {"dataPlane": "Gateway", "gatewayRef": GATEWAY, "backends": [backend], "rules": [rule]}
    return document("ModelRouter", "far", "llm", spec=spec)


def gateway(*sections: str, **listener: str) -> Document:
    more = {"allowedRoutes": {"namespaces": {"from": "All"}}, **listener}
    spec = {"listeners": [{"name": one, **more} for one in sections]}
    return document("Gateway", "ai", "llm", api="gateway.networking.k8s.io/v1", spec=spec)


def port_of(number: int) -> Document:
    picker = {"name": "fleet-epp-pools", "port": {"number": number}}
    api = "inference.networking.k8s.io/v1"
    return document("InferencePool", "a", "llm", api=api, spec={"endpointPickerRef": picker})


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(on("metal", "a"), id="model"),
        pytest.param(exposed("a", modelName="named"), id="service"),
        pytest.param(exposed("b", "Failed"), id="service of a router"),
        pytest.param(both("other"), id="router"),
        pytest.param(both("a"), id="router takes a name"),
        pytest.param(mac(52002), id="agent"),
        pytest.param(600.0, id="time"),
        pytest.param(gateway(), id="gateway"),
        pytest.param(gateway("http", hostname="far.example.com"), id="gateway that a router leads to"),
        pytest.param(port_of(12345), id="pool that is there"),
    ],
)
def test_whatever_changes_is_seen(change: Document | float, target: Target) -> None:
    site = [on("cuda", "a"), on("metal", "b"), exposed("a"), exposed("b"), both("chat"), far(), mac(52001)]
    there = {one.kind + one.name: one for one in (*site, gateway("http"))}
    options, memory, now = Options(target, is_live=True, claim=True), Memory(), NOON
    before = compile_documents(tuple(there.values()), options, memory=memory, now=now)
    if isinstance(change, Document):
        there[change.kind + change.name] = change
    else:
        now += change
    after = compile_documents(tuple(there.values()), options, memory=memory, now=now)
    assert after == compile_documents(tuple(there.values()), options, memory=Nothing(), now=now)
    assert after != before or "ModelRouter/llm/c" in after.failed  # as what it was and is


@pytest.mark.parametrize("target", Target)
def test_what_has_not_changed_is_the_same_object(target: Target) -> None:
    site = [document("Model", name, "llm", spec={"hardware": {"accelerator": "cuda"}}) for name in NAMES]
    how = {"enabled": True, "gatewayRef": GATEWAY}
    site += [
        document("InferenceService", name, "llm", spec={"modelRef": name, "endpoint": {"gateway": how}})
        for name in NAMES
    ]
    options, memory = Options(target, is_live=True, claim=True), Memory()
    before = {one.key: one for one in compile_documents(site, options, memory=memory).objects}
    spec = {"modelRef": "b", "endpoint": {"port": 9000, "gateway": how}}
    site[-1] = document("InferenceService", "b", "llm", spec=spec)
    after = {one.key: one for one in compile_documents(site, options, memory=memory).objects}
    of = {name: [key for key in after if key[2].partition("-")[0] == name] for name in NAMES}
    assert of["a"] and all(after[key] is before[key] for key in of["a"])
    assert any(after[key] is not before.get(key) for key in of["b"])
