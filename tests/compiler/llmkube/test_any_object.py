"""Whatever stands in an object: it is a router or has an error, and nothing is raised."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.compiler.documents import Document, Documents
from epp.compiler.inputs import llmkube
from epp.compiler.inputs.llmkube.status import words
from epp.compiler.options import Options, Target
from tests.compiler.llmkube.cluster import (
    FLEET,
    GATEWAY,
    agent,
    document,
    exposed,
    model,
    outside,
    read,
    router,
    rule,
    service,
    to,
)

OPTIONS = Options(Target.ENVOY_AI_GATEWAY_1_1)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

WHOLE = router(
    backends=[
        to("cuda", displayName="Qwen", capabilities=["tools"], weight=3, timeout="90s", tier="local"),
        to("metal", healthCheck={"path": "/health"}, resolution="endpoint"),
        outside(
            "cloud", url="https://llm.example.com/v1", external={"credentialsSecretRef": {"name": "key"}}
        ),
    ],
    rules=[
        rule("metal", name="pii", match={"dataClassification": ["pii"]}, failClosed=True, timeout="1.5s"),
        rule(
            "cuda",
            "cloud",
            match={
                "models": ["qwen*"],
                "headers": {"X-Team": "blue"},
                "taskComplexity": "simple",
                "requiredCapabilities": ["tools"],
                "latencySLOMs": 100,
            },
            route={"strategy": "weighted"},
        ),
    ],
    defaultRoute="cuda",
    defaultRouteStrategy="BackendNameMatch",
    policy={
        "budgets": [
            {"name": "b", "scope": "team", "maxTokens": 5, "windowSeconds": 60, "headerKey": "x-team"}
        ],
        "classification": {
            "mode": "header-only",
            "headerKey": "x-class",
            "sensitiveClassifications": ["pii"],
        },
        "auditLog": {"sink": "stdout"},
        "auth": {
            "jwt": {"provider": "k", "issuer": "https://id", "jwksURI": "https://id/c", "teamClaim": "t"},
            "allowlists": [{"team": "blue", "models": ["qwen"]}],
        },
    },
).spec


def places(value: Any) -> list[tuple[str | int, ...]]:
    """All paths in ``value``."""
    found: list[tuple[str | int, ...]] = [()]
    pairs = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in pairs:
        found += [(key, *rest) for rest in places(inner)]
    return found


def changed(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    key, *rest = path
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    copy[key] = changed(value[key], tuple(rest), new)
    return copy


WORDS = st.sampled_from(
    [
        *("cuda", "metal", "cloud", "gone", "qwen", "qwen*", "q[a-z]", "[", "", " ", "blue", "X-Team"),
        *("pii", "phi", "PII", "public", "header-only", "off", "local", "cloud", "simple", "complex"),
        *("primary-fallback", "weighted", "shadow", "Static", "BackendNameMatch", "stdout", "team", "rule"),
        *("1s", "1.5s", "0s", "soon", "https://llm.example.com/v1", "http://127.0.0.1", "openai", "litellm"),
    ]
)


REQUIRED = frozenset({"name", "gatewayRef", "backends", "route", "provider", "model", "team"})


def like(value: Any) -> st.SearchStrategy[Any]:
    """What has the type of ``value``, as have its parts, some of which are left out: what a CRD lets pass."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers(-1, 3) | st.sampled_from([60, 3600, 2**31])
        case str():
            return st.just(value) | WORDS
        case list():
            picked = st.lists(st.sampled_from(range(len(value))), unique=True)
            return picked.flatmap(lambda places: st.tuples(*(part(value[at]) for at in places)).map(list))
        case _:
            parts = {key: part(one) for key, one in value.items()}
            needed = {key: one for key, one in parts.items() if key in REQUIRED}
            return st.fixed_dictionaries(
                needed, optional={key: parts[key] for key in sorted(parts.keys() - REQUIRED)}
            )


def part(value: Any) -> st.SearchStrategy[Any]:
    """Of the whole: mostly as it is, else nothing would be right as a whole."""
    return st.one_of(st.just(value), st.just(value), like(value))


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    return at(value[path[0]], path[1:]) if path else value


PLACES = [one for one in places(WHOLE) if one[:1] != ("dataPlane",) and one]
ODD = st.deferred(lambda: json)  # one choice, not as many as there are kinds of JSON
CHANGED = st.sampled_from(PLACES).flatmap(lambda path: st.tuples(st.just(path), like(at(WHOLE, path)) | ODD))
ROUTERS = part({key: value for key, value in WHOLE.items() if key != "dataPlane"})


def is_one_or_the_other(asked: Document, *others: Document) -> None:
    given = Documents([*FLEET, *others, asked])
    reading = llmkube.read(given, OPTIONS, now=1.8e9)
    routers = [one for one in reading.routers if one.origin.object == asked.origin.object]
    errors = [one for one in reading.findings if one.is_error and one.origin.object == asked.origin.object]
    assert bool(routers) != bool(errors)
    for one in routers:
        gates = [each for each in one.rules if not each.backends]
        assert one.rules and all(each.sensitive and each.fail_closed for each in gates)
        assert len({each.name for each in one.rules}) == len(one.rules)
        assert [each.is_default for each in one.rules].count(True) <= 1
        for each in one.rules:
            assert len({condition.header for condition in each.conditions}) == len(each.conditions)
    for finding in reading.findings:
        assert finding.message and (finding.fix or not finding.is_error)
    assert list(words(given, OPTIONS, reading.routers, reading.findings, outcomes={}))


def test_the_router_that_is_changed_below_is_whole() -> None:
    assert read(*FLEET, document("ModelRouter", "whole", WHOLE)).routers


@pytest.mark.parametrize(
    "specs", [ROUTERS, CHANGED.map(lambda change: changed(WHOLE, *change))], ids=["whole", "in-one-place"]
)
def test_a_quarter_of_the_routers_below_are_right(specs: st.SearchStrategy[dict[str, Any]]) -> None:
    """Else what is said of them is hardly looked at."""
    found: list[int] = []

    @settings(max_examples=200, derandomize=True, database=None)
    @given(specs)
    def count(spec: dict[str, Any]) -> None:
        reading = read(*FLEET, document("ModelRouter", "some", {**spec, "dataPlane": "Gateway"}))
        found.append(sum(len(one.rules) for one in reading.routers))

    count()
    assert sum(map(bool, found)) > len(found) / 4
    assert len(set(found)) > 4


@settings(max_examples=400)
@given(change=CHANGED)
def test_a_router_with_anything_in_one_place(change: tuple[tuple[str | int, ...], Any]) -> None:
    is_one_or_the_other(document("ModelRouter", "some", changed(WHOLE, *change)))


@settings(max_examples=400)
@given(spec=ROUTERS)
def test_a_router_of_what_a_crd_lets_pass(spec: dict[str, Any]) -> None:
    is_one_or_the_other(document("ModelRouter", "some", {**spec, "dataPlane": "Gateway"}))


@given(spec=st.dictionaries(st.sampled_from(sorted(WHOLE)), json))
def test_a_router_of_anything(spec: dict[str, Any]) -> None:
    is_one_or_the_other(document("ModelRouter", "some", {**spec, "dataPlane": "Gateway"}))


@given(
    spec=st.dictionaries(st.sampled_from(["modelRef", "runtime", "containerPort", "probeOverrides"]), json)
)
def test_a_service_of_anything(spec: dict[str, Any]) -> None:
    endpoint = {"gateway": {"enabled": True, "gatewayRef": GATEWAY}}
    is_one_or_the_other(document("InferenceService", "some", {**spec, "endpoint": endpoint}))


texts = st.text(max_size=12)


@given(
    models=st.lists(texts, max_size=4),
    values=st.lists(texts, max_size=4),
    headers=st.dictionaries(texts, texts),
)
def test_a_rule_that_asks_for_anything(models: list[str], values: list[str], headers: dict[str, str]) -> None:
    match = {"models": models, "dataClassification": values, "headers": headers}
    asked = rule("cuda", match=match, failClosed=True)
    is_one_or_the_other(document("ModelRouter", "some", router(rules=[asked], defaultRoute="cuda").spec))


@given(url=texts | texts.map("http://{}".format) | texts.map("https://a/{}".format))
def test_a_backend_that_is_anywhere(url: str) -> None:
    spec = router(backends=[outside("there", url=url)], rules=[rule("there")]).spec
    is_one_or_the_other(document("ModelRouter", "some", spec))


@given(status=json, meta=json, slice_of=json)
def test_what_others_say_of_it_may_be_anything(status: Any, meta: Any, slice_of: Any) -> None:
    slice_ = agent("some")
    odd = Document({**slice_.content, "endpoints": slice_of, "ports": slice_of})
    asked = exposed("some", of="mac", status=status)
    is_one_or_the_other(asked, odd)
    nameless = Document({**exposed("other").content, "metadata": meta, "status": status})
    llmkube.read(Documents([model(), nameless, service("a")]), OPTIONS)
