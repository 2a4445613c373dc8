"""Whatever a fleet file says, reading it ends in an intent that targets can rely on, or in findings."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document, Documents
from epp.compiler.inputs import Reading, fleet
from epp.compiler.intent import GatewayRef, Pool, Strategy
from epp.compiler.options import Options, Target
from tests.compiler.fleet.reading import OPTIONS

HEAD = {
    "apiVersion": "fleet-epp.dev/v1alpha1",
    "kind": "Fleet",
    "metadata": {"name": "site", "namespace": "llm"},
}
FIELDS = """
    aliases auth audit backends budgets classes defaultModel gateway health hostnames hosts issuer jwks local
    model models name owner per pods pool port priorities provider region secret sensitive servedAs service
    teams timeout tokens url window
""".split()
WORDS = st.sampled_from(
    ["", "A b", *"a b c a/x b/y * g* 1s 1.5s openai bedrock 10.0.0.1 h:1 x:80 https://x ü".split()]
)
ANYTHING = st.recursive(
    WORDS | st.integers(-3, 70_000) | st.booleans() | st.floats() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | WORDS, inner, max_size=5)
    ),
    max_leaves=40,
)

NAMES = st.sampled_from("abcdef")
PLACES = st.one_of(
    st.fixed_dictionaries({"pods": st.fixed_dictionaries({"app": NAMES})}),
    st.fixed_dictionaries(
        {
            "hosts": st.lists(
                st.sampled_from(["10.0.0.1", "10.0.0.2:81", "[fd00::1]:8"]), min_size=1, unique=True
            )
        }
    ),
    st.fixed_dictionaries({"url": st.sampled_from(["https://x.example/v1", "http://10.1.1.1:8000"])}),
    st.fixed_dictionaries({"provider": st.just("openai"), "secret": st.just("key")}),
)
REFERENCES = st.sampled_from(["a", "b", "c", "d", "x", "y", "x/m", "y/m", "y/n"])
WAYS = st.fixed_dictionaries(
    {
        "backends": st.lists(REFERENCES, min_size=1, max_size=4, unique=True)
        | st.dictionaries(REFERENCES, st.integers(0, 99), min_size=1, max_size=3)
    }
)
ENTRIES = st.builds(
    lambda place, aliases, more: {**place, **({"aliases": aliases} if aliases else {}), **more},
    PLACES | WAYS,
    st.lists(st.sampled_from(["r", "s", "t", "u*"]), max_size=2, unique=True),
    st.fixed_dictionaries({}, optional={"timeout": st.sampled_from(["1.5s", "2m"]), "owner": NAMES}),
)
FILES = st.builds(
    lambda entries, backends, more: {
        **HEAD,
        "gateway": "edge/ai",
        "models": [{"name": name, **entry} for name, entry in zip("abcdef", entries, strict=False)],
        "backends": dict(zip("xy", backends, strict=False)),
        **more,
    },
    st.lists(ENTRIES, min_size=1, max_size=6),
    st.lists(PLACES, min_size=2, max_size=2),
    st.fixed_dictionaries(
        {},
        optional={
            "sensitive": st.just({"classes": ["pii"]}),
            "defaultModel": NAMES,
            "priorities": st.just({"batch": -1}),
            "budgets": st.just([{"tokens": 5, "model": "a"}]),
        },
    ),
)
"""Plausible, and often wrong: names that are not there, cycles, shares that are all 0."""


def read(content: dict[str, Any]) -> Reading:
    return fleet.read(Documents([Document(content, "fleet.yaml:1")]), OPTIONS)


@given(content=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), ANYTHING, max_size=8))
def test_nothing_makes_it_raise(content: dict[str, Any]) -> None:
    reading = read({"models": [], **content, **HEAD})
    assert reading.routers or any(one.is_error for one in reading.findings)


@given(content=FILES)
def test_every_model_is_served_or_told(content: dict[str, Any]) -> None:
    reading = read(content)
    told = {one.origin.object for one in reading.findings if one.is_error}
    served = {name for router in reading.routers for rule in router.rules for name in rule.models}
    if "Fleet/llm/site" not in told:
        for index, model in enumerate(content["models"]):
            names = {f"Fleet/llm/site/{model['name']}", f"Fleet/llm/site/models[{index}]"}
            assert model["name"] in served or names & told


@given(content=FILES)
def test_what_comes_out_is_what_targets_rely_on(content: dict[str, Any]) -> None:
    for router in read(content).routers:
        names = [rule.name for rule in router.rules]
        assert len(set(names)) == len(names)
        assert [rule.is_default for rule in router.rules[:-1]] == [False] * (len(router.rules) - 1)
        for rule in router.rules:
            assert rule.backends or rule.models or rule.conditions
            assert rule.models or rule.is_default or rule.conditions
            if rule.strategy is Strategy.WEIGHTED:
                assert any(one.weight for one in rule.backends)
            for one in rule.backends:
                assert one.model != "*"
                assert not isinstance(one.servers, Pool) or one.servers.selector or one.servers.hosts


@given(content=FILES)
def test_a_sensitive_request_never_leaves_the_house(content: dict[str, Any]) -> None:
    """Tried in order, as rules are, the first that takes it has local backends only."""
    content["sensitive"] = {"classes": ["pii"]}
    for router in read(content).routers:
        for wanted in {name for rule in router.rules for name in rule.models if "*" not in name} | {
            "unheard-of"
        }:
            first = next((rule for rule in router.rules if not rule.models or wanted in rule.models), None)
            assert first is None or all(one.local for one in first.backends)


@given(content=FILES)
def test_nothing_else_serves_what_a_model_in_error_would(content: dict[str, Any]) -> None:
    content["models"].append({"name": "*", "backends": ["x"]})
    reading = read(content)
    told = {one.origin.part for one in reading.findings if one.is_error}
    for router in reading.routers:
        for model in content["models"][:-1]:
            first = next(rule for rule in router.rules if {model["name"], "*"} & set(rule.models))
            assert not (model["name"] in told and first.backends)


@settings(max_examples=60)
@given(content=FILES, target=st.sampled_from(list(Target)))
def test_every_target_takes_it(content: dict[str, Any], target: Target) -> None:
    options = Options(target, gateway=GatewayRef("ai", "edge"))
    compiled = compile_documents([Document(content, "fleet.yaml:1")], options)
    assert compiled.objects or compiled.findings
