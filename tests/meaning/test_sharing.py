"""Several routers on one Gateway: nobody else serves the oldest's sensitive requests, whichever route was
made first; and nobody without a token asks for a model of a router that wants one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from epp.compiler.compile import Compiled, compile_readings
from epp.compiler.documents import Document, Documents
from epp.compiler.emission import Emitted
from epp.compiler.inputs import Reading, llmkube
from epp.compiler.intent import Access, Allowance, GatewayRef, Jwt, Router
from epp.compiler.options import Options, Target
from epp.compiler.targets.envoy_ai_gateway import separation
from tests.compiler.envoy_ai_gateway.made import provider
from tests.compiler.makers import origin, router, rule
from tests.meaning import proxy
from tests.meaning.gateways import Gateway, Order
from tests.meaning.request import Request
from tests.meaning.routers import API, MAC, SERVICES, backends, objects

ENVOY = (Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1)
ORDERS = {Target.AGENTGATEWAY: Order.GATEWAY_API, Target.GATEWAY_API: Order.GATEWAY_API}
HOSTS = ((), ("ai.example.com",), ("*.example.com",), ("other.example.org",))
ASKED_HOSTS = ("ai.example.com", "b.example.com", "other.example.org")
SECTIONS = ("", "", "inside", "outside")
PATTERNS = ("qwen", "phi", "qwen*", "*")
MODELS = ("qwen", "phi", "qwen-vl", "gemma")


@dataclass(frozen=True)
class Shared:
    """A router, and where its requests come in."""

    name: str
    created: str
    spec: Mapping[str, Any]
    hostnames: tuple[str, ...]
    section: str

    def meets(self, host: str, section: str) -> bool:
        return self.section in {"", section} and bool(exactness(self.hostnames, host))


def exactness(hostnames: Sequence[str], host: str) -> tuple[int, ...]:
    """How well they fit; empty: not at all. One without a star comes first, then the longest."""
    fits: list[tuple[int, ...]] = [
        (2 - one.startswith("*."), len(one))
        for one in hostnames
        if one == host or (one.startswith("*.") and host.endswith(one[1:]))
    ]
    return max(fits, default=()) if hostnames else (1, 0)


@st.composite
def rules(draw: st.DrawFn, number: int) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if models := draw(st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True)):
        match["models"] = models
    if classes := draw(st.sampled_from([[], ["pii"], ["pii", "phi"], ["public"]])):
        match["dataClassification"] = classes
    wanted = draw(st.sampled_from([{}, {"X-Team": "red"}, {"X-Team": "red", "X-App": "q"}]))
    if wanted:
        match["headers"] = wanted
    chosen = [draw(st.sampled_from(SERVICES))]
    closed = "pii" in classes or draw(st.integers(0, 7)) == 0
    found = {"name": f"rule-{number}", "match": match, "route": {"backends": chosen}, "failClosed": closed}
    return found if match else {**found, "failClosed": False}


@st.composite
def routers(draw: st.DrawFn) -> list[Shared]:
    """The oldest first."""
    names = draw(st.permutations(["a", "b", "c"]))
    found = []
    for age, name in enumerate(names[: draw(st.integers(2, 3))], 1):
        count = draw(st.integers(1, 3))
        spec: dict[str, Any] = {
            "dataPlane": "Gateway",
            "gatewayRef": {"name": "ai", "namespace": "llm"},
            "backends": backends(cloud=False),
            "rules": [draw(rules(number)) for number in range(count)],
        }
        if draw(st.booleans()):
            spec["defaultRoute"] = draw(st.sampled_from(SERVICES))
        hosts, section = draw(st.sampled_from(HOSTS)), draw(st.sampled_from(SECTIONS))
        found.append(Shared(name, f"2026-01-0{age}T00:00:00Z", spec, hosts, section))
    return found


def requests() -> Iterator[Request]:
    for model, kind, team, app in itertools.product(
        MODELS, (None, "pii", "PII", "phi"), (None, "red"), (None, "q")
    ):
        said = {"x-llmkube-classification": kind, "x-team": team, "x-app": app}
        yield Request(model, {name: value for name, value in said.items() if value is not None})


def compiled(sharing: Sequence[Shared], target: Target) -> Compiled:
    metas = {
        one.name: {"name": one.name, "namespace": "llm", "creationTimestamp": one.created} for one in sharing
    }
    own = [
        {"apiVersion": API, "kind": "ModelRouter", "metadata": metas[one.name], "spec": one.spec}
        for one in sharing
    ]
    there = [one for one in objects(dict(sharing[0].spec)) if one["kind"] != "ModelRouter"]
    given, options = Documents([Document(one) for one in [*own, *there]]), Options(target)
    reading = llmkube.read(given, options)
    where = {one.name: one for one in sharing}
    placed = tuple(
        replace(
            one,
            hostnames=where[one.name].hostnames,
            gateway=replace(one.gateway, section=where[one.name].section),
        )
        for one in reading.routers
    )
    return compile_readings([replace(reading, routers=placed)], given, options)


def answers(
    made: Sequence[Emitted], target: Target, request: Request, host: str, section: str
) -> Iterator[tuple[str, ...]]:
    """Who may serve it: of the routes with the longest hostname; and of the next, should none of them fit."""
    kind = "AIGatewayRoute" if target in ENVOY else "HTTPRoute"
    tiers: dict[tuple[int, ...], list[Emitted]] = {}
    for one in made:
        spec = one.document["spec"] if one.key[0] == kind else {}
        fit = exactness(spec.get("hostnames", ()), host)
        if spec and fit and spec["parentRefs"][0].get("sectionName", section) == section:
            tiers.setdefault(fit, []).append(one)
    others = [one.document for one in made if one.key[0] != kind]
    for _, routes in sorted(tiers.items(), reverse=True):
        found = Gateway(
            [*others, *(one.document for one in routes)],
            route=kind,
            model_header="x-ai-eg-model" if target in ENVOY else "x-gateway-model-name",
            order=ORDERS.get(target, Order.ENVOY),
            addresses={MAC: "metal"},
        ).answer(request)
        yield found.backends
        if found.because != "404":
            return


def orders(made: Sequence[Emitted], target: Target) -> Iterator[list[Emitted]]:
    """In which routes may have been made, each router's in their own order; agentgateway goes by names."""
    if target is Target.AGENTGATEWAY:
        yield sorted(made, key=lambda one: one.key[1:])
        return
    whose = sorted({one.sources[0].name for one in made})
    for names in itertools.permutations(whose):
        yield sorted(made, key=lambda one: (names.index(one.sources[0].name), one.key[2]))


def kept(oldest: Shared, request: Request) -> tuple[str, ...] | None:
    """Who alone may serve it; None: it is no request that a rule keeps."""
    wanted = proxy.answer(oldest.spec, request)
    closed = {one["name"] for one in oldest.spec["rules"] if one["failClosed"]}
    return wanted.backends if wanted.because in closed else None


@pytest.mark.parametrize(
    "target, many",
    [*((target, separation.MANY) for target in Target), (Target.ENVOY_AI_GATEWAY_1_1, 0)],
    ids=str,
)
@given(sharing=routers())
@settings(max_examples=120, deadline=None)
def test_the_oldest_routers_sensitive_requests_are_its_own(
    target: Target, many: int, sharing: list[Shared]
) -> None:
    """``many``: values of a header that are told apart; as if there were more of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "MANY", many)
        result, oldest = compiled(sharing, target), sharing[0]
    if f"ModelRouter/llm/{oldest.name}" in result.failed:
        event("the oldest cannot be had")
        return
    event(f"{len(result.failed)} of {len(sharing) - 1} younger ones refused")
    wanted = [(one, kept(oldest, one)) for one in requests()]
    for made in orders(result.objects, target):
        for host, section in itertools.product(ASKED_HOSTS, ("inside", "outside")):
            if not oldest.meets(host, section):
                continue
            for request, alone in wanted:
                for served_by in answers(made, target, request, host, section) if alone is not None else ():
                    assert set(served_by) <= set(alone or ()), (request, host, section, served_by)


# --- who may ask -----------------------------------------------------------------------------------------

IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team")
OTHER = Jwt("https://other.example.com", "https://other.example.com/jwks", "team", "x-team")
NAMES = ("qwen", "phi", "gemma")


@st.composite
def secured_and_open(draw: st.DrawFn) -> list[Router]:
    found = []
    for age, name in enumerate(draw(st.permutations(["a", "b", "c"])), 1):
        created = f"2026-01-0{age}T00:00:00Z"
        jwt = draw(st.sampled_from([None, None, IDP, OTHER]))
        teams = draw(st.sampled_from([(), (Allowance("red", ("qwen",)), Allowance("admin"))]))
        models = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
        made = router(
            name,
            rule(provider(name), of=origin(name, created), models=tuple(models)),
            created=created,
            access=Access(jwt, origin(name, created), teams) if jwt else None,
            hostnames=draw(st.sampled_from(HOSTS)),
        )
        section = draw(st.sampled_from(SECTIONS))
        found.append(replace(made, gateway=GatewayRef("ai", "llm", section)))
    return found


def are_on(one: Router, section: str) -> bool:
    return not section or one.gateway.section in {"", section}


@pytest.mark.parametrize("target", ENVOY, ids=str)
@given(sharing=secured_and_open())
@settings(max_examples=200, deadline=None)
def test_what_wants_a_token_is_never_open(target: Target, sharing: list[Router]) -> None:
    result = compile_readings([Reading(tuple(sharing))], Documents(()), Options(target))
    policies = [one.document["spec"] for one in result.objects if one.key[0] == "SecurityPolicy"]
    held = dict[str, set[str]]()
    for spec in policies:
        section = spec["targetRefs"][0].get("sectionName", "")
        secured = [one for one in result.intent.routers if one.access and are_on(one, section)]
        held |= {one.name: {model for rule in one.rules for model in rule.models} for one in secured}
        for allowed in spec.get("authorization", {}).get("rules", ()):
            if "jwt" not in allowed["principal"]:
                (header,) = allowed["principal"]["headers"]
                for one in secured:
                    assert not held[one.name] & set(header["values"])
    assert set(held) == {one.name for one in result.intent.routers if one.access}
    event(f"{len(policies)} policies, {len(result.failed)} refused")
