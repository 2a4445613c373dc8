"""What is wrong with a fleet file: one clear finding each, and what is right stays live."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document, Documents
from epp.compiler.inputs import fleet
from epp.compiler.names import name_of
from epp.compiler.options import Options, Target
from tests.compiler.fleet.reading import OPTIONS, line, live, read, refused, told

GOOD = "{name: good, pods: {app: g}}"


@pytest.mark.parametrize(
    "entry, expected",
    [
        ("{name: a, prot: 1}", 'models[a].prot SpecInvalid: unknown field -> did you mean "port"?'),
        ("{pods: {a: b}}", 'models[1] SpecInvalid: "name" is missing -> '),
        (
            "{name: a}",
            'models[a] SpecInvalid: says nowhere where it is served -> write "pods", "hosts" or "backends"',
        ),
        ("7", "models[1] SpecInvalid: expected a mapping, got 7"),
        ("{name: a b, pods: {a: b}}", "models[a b].name SpecInvalid: must be without spaces and commas"),
        ("{name: a, pods: {a: b}, port: 0}", "models[a].port SpecInvalid: must be from 1 to 65535, got 0"),
        (
            "{name: a, pods: {a: b}, port: [1, 1]}",
            "models[a].port SpecInvalid: must be at most 8 different ones",
        ),
        (
            "{name: a, pods: {a: 1}}",
            "models[a].pods.a SpecInvalid: expected a string, got 1 -> put it in quotes",
        ),
        ("{name: a, pods: {a: b c}}", 'models[a].pods SpecInvalid: must be values of labels, got "b c"'),
        (
            "{name: a, hosts: [{address: 10.0.0.1, labels: {a/b/c: x}}]}",
            'models[a].hosts[0].labels SpecInvalid: must be labels, got "a/b/c"',
        ),
        (
            "{name: a, pods: {a: b}, pool: p}",
            "models[a] SpecInvalid: is pool and pods or hosts at once -> keep one",
        ),
        (
            "{name: a, hosts: [x y]}",
            'models[a].hosts SpecInvalid: "x y" is neither an IP address nor a host name',
        ),
        ("{name: a, hosts: ['h:0']}", "models[a].hosts SpecInvalid: the port of h:0 must be from 1 to 65535"),
        (
            "{name: a, hosts: [10.0.0.1, 10.0.0.1]}",
            "models[a].hosts SpecInvalid: 10.0.0.1:8000 is there twice",
        ),
        (
            "{name: a, hosts: [{adress: x}]}",
            'models[a].hosts[0].adress SpecInvalid: unknown field -> did you mean "add',
        ),
        (
            "{name: a, pods: {a: b}, timeout: 1}",
            'models[a].timeout SpecInvalid: expected a duration such as "500ms"',
        ),
        (
            "{name: a, pods: {a: b}, timeout: 99ms}",
            "models[a].timeout SpecInvalid: must be from 100ms to 24h, got 0.099s",
        ),
        (
            "{name: a, pods: {a: b}, timeout: 1.0005s}",
            "models[a].timeout SpecInvalid: must be whole milliseconds",
        ),
        (
            "{name: a, url: ftp://x}",
            "models[a].url SpecInvalid: must be one such as https://llm.example.com/v1",
        ),
        ("{name: a, url: 'https://u:p@x/v1'}", "models[a].url SpecInvalid: must be one such as"),
        ("{name: a, provider: opnai}", 'models[a].provider SpecInvalid: expected one of "anthropic"'),
        ("{name: a, provider: openai}", 'models[a].provider SpecInvalid: openai wants a key -> add "secret"'),
        (
            "{name: a, provider: bedrock}",
            "models[a].provider SpecInvalid: bedrock has an address in each region -> add",
        ),
        (
            "{name: a, provider: azure, secret: k}",
            "models[a].provider SpecInvalid: azure has no address of its own",
        ),
        (
            "{name: a, provider: openai, secret: k, local: yes}",
            "models[a].local SpecInvalid: openai is not in the house",
        ),
        ("{name: a, pods: {a: b}, secret: k}", "models[a].secret SpecInvalid: has no use here"),
        (
            "{name: a, service: x}",
            'models[a].service SpecInvalid: must be "name:port" or "namespace/name:port"',
        ),
        (
            "{name: a, pods: {a: b}, service: 'x/y:1'}",
            "models[a].service SpecInvalid: must be in llm, where the pods are",
        ),
        (
            "{name: a, backends: [nroth]}",
            'models[a].backends BackendsUnresolved: there is no backend and no model "nroth" -> did you mean',
        ),
        (
            "{name: a, backends: [north], port: 1}",
            "models[a].port SpecInvalid: belongs to the backend -> write it there",
        ),
        (
            "{name: a, backends: [north], pods: {a: b}}",
            "models[a].backends SpecInvalid: are there beside servers of its",
        ),
        (
            "{name: a, backends: [north, north]}",
            'models[a].backends SpecInvalid: "north" is there twice -> leave one out',
        ),
        ("{name: a, backends: {north: 0, south: 0}}", "models[a].backends SpecInvalid: all shares are 0"),
        (
            "{name: a, backends: {north: -1}}",
            "models[a].backends SpecInvalid: shares must be from 0 to 1000000",
        ),
        ("{name: a, backends: [a]}", 'models[a].backends CyclicModels: "a" is this model itself'),
        (
            "{name: good, pods: {a: b}}",
            'models[1] ModelNameTaken: "good" is a name of good already -> give one of the two',
        ),
        (
            "{name: a, aliases: [good], pods: {a: b}}",
            'models[1] ModelNameTaken: "good" is a name of good already',
        ),
        (
            "{name: a, aliases: [a], pods: {a: b}}",
            'models[a].aliases SpecInvalid: "a" is there twice -> leave one out',
        ),
        ("{name: north, pods: {a: b}}", 'models[north] SpecInvalid: its pool would be called "north"'),
    ],
)
def test_a_fault_in_one_model_leaves_the_others_live(entry: str, expected: str) -> None:
    text = f"models: [{GOOD}, {entry}]"
    (found,) = told(text)
    assert found.startswith(expected)
    assert live(text) == {"good"}
    name = re.match(r"{name: (\w+)[,}]", entry)
    assert refused(text) == ({name[1]} - live(text) if name else set())


class TestNamesOfModelsInError:
    """They stay theirs: what was meant for the house would go to a partner else."""

    def order(self, *parts: str) -> list[tuple[tuple[str, ...], bool]]:
        """The rules' models, and whether they are served."""
        (found,) = read(*parts).routers
        return [(rule.models, bool(rule.backends)) for rule in found.rules]

    def test_names_and_patterns_of_theirs_are_refused_where_they_would_be_served(self) -> None:
        models = """models:
        - {name: good, pods: {app: g}}
        - {name: "first-*", backends: [north]}
        - {name: bad, aliases: ["bad-*", small], pods: {app: b}, prot: 1}
        - {name: lost, backends: [nroth]}
        - {name: "*", backends: [south]}
        """
        assert self.order(models, "defaultModel: good") == [
            (("good",), True),
            (("bad", "small"), False),
            (("lost",), False),
            (("first-*",), True),
            (("bad-*",), False),
            (("*",), True),
            ((), True),
        ]

    def test_what_another_model_has_is_that_ones(self) -> None:
        models = (
            f"models: [{GOOD}, {{name: a, aliases: [good, b, a b], prot: 1}}, {{name: b, pods: {{x: y}}}}]"
        )
        assert (live(models), refused(models)) == ({"good", "b"}, {"a"})

    def test_of_the_default_none_is_left(self) -> None:
        models = f"models: [{GOOD}, {{name: a, prot: 1}}]"
        assert self.order(models, "defaultModel: a") == [(("good",), True), (("a",), False)]

    def test_of_nothing_but_errors_all_is_refused(self) -> None:
        """Somebody's younger router for any model would serve them else."""
        assert self.order("models: [{name: a, prot: 1}]") == [(("a",), False)]

    def test_what_a_default_in_error_keeps_is_refused(self) -> None:
        (site,) = read(
            f"models: [{GOOD}, {{name: a, prot: 1}}]", "defaultModel: a", "sensitive: {classes: [pii]}"
        ).routers
        of_a, of_others = site.rules[-2:]
        assert of_a.models == ("a",) and of_a.is_guarded and not of_a.conditions
        assert of_others.models == () and of_others.is_guarded and not of_others.backends
        assert [(one.header, one.values) for one in of_others.conditions] == [("x-data-class", ("pii",))]


class TestReferences:
    def test_a_fault_in_a_backend_is_told_there_and_by_whoever_uses_it(self) -> None:
        text = f"""
        models: [{GOOD}, {{name: a, backends: [bad/x]}}, {{name: b, backends: [a]}}]
        backends: {{bad: {{uri: x}}}}
        """
        assert told(text) == [
            'backends.bad.uri SpecInvalid: unknown field -> did you mean "url"?',
            'models[a].backends BackendsUnresolved: uses "bad/x", which has an error -> mend backends.bad',
            'models[b].backends BackendsUnresolved: uses "a", which has an error -> mend models[a]',
        ]
        assert (live(text), refused(text)) == ({"good"}, {"a", "b"})

    def test_models_that_lead_to_each_other(self) -> None:
        text = f"models: [{GOOD}, {{name: a, backends: [b]}}, {{name: b, backends: [a]}}]"
        cycle, user = told(text)
        assert cycle.startswith(
            "models[b].backends CyclicModels: leads back to itself: a -> b -> a -> end one"
        )
        assert user == 'models[a].backends BackendsUnresolved: uses "b", which has an error -> mend models[b]'
        assert live(text) == {"good"}

    def test_a_way_that_nobody_could_follow(self) -> None:
        models = ", ".join(f"{{name: m{n}, backends: [m{n + 1}]}}" for n in range(40))
        text = f"models: [{models}, {{name: m40, pods: {{a: b}}}}]"
        assert any("leads over more than 16 models" in one for one in told(text))
        assert "m40" in live(text)

    @pytest.mark.parametrize(
        "models, expected",
        [
            (
                "{name: s, backends: {north: 1, south: 1}}, {name: a, backends: [s, north/x]}",
                "has shares, which cannot",
            ),
            (
                "{name: s, backends: [north, south]}, {name: a, backends: {s: 1, north/x: 1}}",
                "cannot have a share",
            ),
        ],
    )
    def test_order_and_shares_do_not_mix(self, models: str, expected: str) -> None:
        (found,) = told(f"models: [{models}]")
        assert found.startswith("models[a].backends UnsupportedCombination: ")
        assert expected in found

    def test_a_pattern_cannot_be_a_part(self) -> None:
        (found,) = told('models: [{name: "g*", backends: [north]}, {name: a, backends: ["g*"]}]')
        assert 'stands for many names -> name its backend, and the model there: "partner/qwen3-8b"' in found

    def test_a_backend_that_nobody_uses_is_told(self) -> None:
        findings = read(f"models: [{GOOD}]").findings
        assert [(one.severity, one.code, one.origin.field) for one in findings] == [
            ("warning", "UnusedBackend", "backends.north"),
            ("warning", "UnusedBackend", "backends.south"),
        ]

    def test_but_not_where_its_model_has_an_error(self) -> None:
        findings = read(f"models: [{GOOD}, {{name: a, backends: [north, south], prot: 1}}]").findings
        assert [one.code for one in findings] == ["SpecInvalid"]


AUTH = 'auth: {issuer: i, jwks: "https://idp.example.com/keys"}'


@pytest.mark.parametrize(
    "text, expected",
    [
        ("modles: []", 'modles SpecInvalid: unknown field -> did you mean "models"?'),
        ("timeout: 25h", "timeout SpecInvalid: must be from 100ms to 24h"),
        ("gateway: a/b/c", 'gateway SpecInvalid: must be "name" or "namespace/name", got "a/b/c"'),
        ("hostnames: ['https://x']", "hostnames SpecInvalid: must be host names such as ai.example.com"),
        (
            "defaultModel: goood",
            'defaultModel BackendsUnresolved: there is no model "goood" -> did you mean "good"?',
        ),
        ("sensitive: {classes: []}", "sensitive.classes SpecInvalid: must not be empty"),
        (
            "sensitive: {classes: [a], models: [away]}",
            'sensitive.models UnsafeSensitiveRoute: "away" has no backend in the',
        ),
        (
            "sensitive: {classes: [a], models: [nobody]}",
            'sensitive.models BackendsUnresolved: there is no model "nobody"',
        ),
        (
            "teams: [{name: a}]",
            'teams AuthorizationRequiresJWT: nothing says who is of which team -> add "auth"',
        ),
        (
            f"{{{AUTH}, teams: [{{name: a, models: [goood]}}]}}",
            'teams[0].models InvalidAuthorization: there is no model "goood" -> did you mean "good"?',
        ),
        (
            f"{{{AUTH}, teams: [{{name: a}}, {{name: a}}]}}",
            'teams[1].name SpecInvalid: "a" is the name of teams[0] already -> make',
        ),
        ("budgets: [{tokens: 0}]", "budgets[0].tokens SpecInvalid: must be from 1 to 4294967295, got 0"),
        ("budgets: [{tokens: 1, window: 1.5s}]", "budgets[0].window SpecInvalid: must be whole seconds"),
        (
            "budgets: [{tokens: 1, model: goood}]",
            'budgets[0].model InvalidBudget: there is no model "goood" -> did you',
        ),
        (
            "budgets: [{tokens: 1, per: team, model: good}]",
            'budgets[0].model SpecInvalid: does not go with "per: team"',
        ),
        ("priorities: {High: 1}", "priorities SpecInvalid: must be lower-case letters"),
    ],
)
def test_a_fault_anywhere_else_is_the_whole_fleets(text: str, expected: str) -> None:
    """Nobody may do more, or less, than was meant."""
    models = f"models: [{GOOD}, {{name: away, backends: [north]}}]"
    gateway = "" if text.startswith("gateway") else "edge/ai"
    found = [one for one in read(models, text, gateway=gateway).findings if one.is_error]
    assert [one.origin.object for one in found] == ["Fleet/llm/site"]
    assert line(found[0]).startswith(expected)


def test_all_that_is_wrong_is_told_at_once() -> None:
    """And nothing that is only wrong because a field with a fault was left out."""
    found = told(
        f"models: [{GOOD}, {{name: a, prot: 1}}]",
        "{timeout: 1, auth: {isuer: i}, teams: [{name: a, models: [fsat]}], defaultModel: goood}",
    )
    assert sorted(one.partition(":")[0] for one in found) == [
        "auth.isuer SpecInvalid",
        "defaultModel BackendsUnresolved",
        "models[a].prot SpecInvalid",
        "timeout SpecInvalid",
    ]


@pytest.mark.parametrize("name", ["", ".", "[", "a.b", "a[0]"])
def test_whatever_an_unknown_field_is_called_reading_ends(name: str) -> None:
    text = f"models: [{GOOD}, {{name: a, prot: 1}}]"
    assert any("unknown field" in one for one in told(text, f'{{"{name}": 1}}'))


def test_a_remedy_shows_what_to_write() -> None:
    assert [one.partition(" -> ")[2] for one in told(f"models: [{GOOD}]", "budgets: [{tokens: many}]")] == [
        "write for example tokens: 200k"
    ]


@pytest.mark.parametrize("written", ["sk-proj-AAAABBBB", "12345678", "a_B", f"sk-proj-{'a1' * 20}"])
def test_a_key_in_the_place_of_its_secret_is_not_repeated(written: str) -> None:
    (found,) = told(f"models: [{GOOD}, {{name: a, provider: openai, secret: {written}}}]")
    assert found.startswith("models[a].secret SpecInvalid: ")
    assert written not in found


def test_without_a_gateway_there_is_no_way_in() -> None:
    (found,) = [one for one in read(f"models: [{GOOD}]", gateway="").findings if one.is_error]
    assert (found.code, found.fix) == (
        "GatewayRefMissing",
        'write "gateway: namespace/name", or give --gateway',
    )


def test_two_fleets_that_choose_one_name_for_a_pool_are_told() -> None:
    """At different Gateways, so that each may have its own model of the name."""
    head = {"apiVersion": "fleet-epp.dev/v1alpha1", "kind": "Fleet"}
    fleets = [
        {
            **head,
            "metadata": {"name": name, "namespace": "llm"},
            "gateway": f"edge/{name}",
            "models": [{"name": "qwen", "pods": {"app": name}}, {"name": name, "pods": {"app": "x"}}],
        }
        for name in ("first", "second")
    ]
    compiled = compile_documents([Document(one) for one in fleets], Options(Target.GATEWAY_API))
    (found,) = [one for one in compiled.findings if one.is_error]
    assert (found.code, found.origin.object) == ("NameTaken", "Fleet/llm/second/qwen")
    pools = {
        one.document["metadata"]["name"]: one
        for one in compiled.objects
        if one.document["kind"] == "InferencePool"
    }
    assert set(pools) == {"qwen", "first", "second", name_of("second", "nobody")}
    assert pools["qwen"].document["spec"]["selector"]["matchLabels"] == {"app": "first"}
    assert compiled.failed == {"Fleet/llm/second/qwen", "Fleet/llm/second"}


def test_a_fleet_of_no_models_is_told() -> None:
    assert told("models: []") == ["models SpecInvalid: there are none -> write at least one"]


@pytest.mark.parametrize("name", ["", "Site", "a.b"])
def test_a_fleet_has_a_name(name: str) -> None:
    content = {
        "apiVersion": "fleet-epp.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": name},
        "models": [],
    }
    (found,) = fleet.read(Documents([Document(content)]), OPTIONS).findings
    assert found.origin.field == "metadata.name"


def test_a_kind_that_there_is_not_is_told() -> None:
    content = {"apiVersion": "fleet-epp.dev/v1alpha1", "kind": "fleet", "metadata": {"name": "a"}}
    (found,) = fleet.read(Documents([Document(content)]), OPTIONS).findings
    assert (found.message, found.fix) == (
        'there is no kind "fleet" of fleet-epp.dev/v1alpha1',
        'write "kind: Fleet"',
    )


@pytest.mark.parametrize("kind", ["Fleet", "fleet", "Fleets"])
@pytest.mark.parametrize("version", ["fleet.epp.dev/v1alpha1", "v1alpha1"])
def test_a_fleet_of_another_group_is_told(version: str, kind: str) -> None:
    content = {"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "llm"}}
    (found,) = fleet.read(Documents([Document(content)]), OPTIONS).findings
    assert (found.severity, found.origin.object, found.message, found.fix) == (
        "error",
        "Fleet/llm/a",  # what was made for it when it was spelt well stays
        f'there is no kind "{kind}" of {version}',
        'write "apiVersion: fleet-epp.dev/v1alpha1" and "kind: Fleet"',
    )


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({"name": "a", "namespace": 5}, "metadata.namespace: expected a string, got 5 -> put it in quotes"),
        ({"name": True}, "metadata.name: expected a string, got true -> put it in quotes"),
        ({"name": "a", "namespace": "L M"}, "metadata.namespace: must be lower-case letters, digits and -"),
        ({"name": "a", "nmespace": "b"}, 'metadata.nmespace: unknown field -> did you mean "namespace"?'),
    ],
)
def test_a_fleet_says_plainly_which_it_is(metadata: dict[str, object], expected: str) -> None:
    content = {"apiVersion": "fleet-epp.dev/v1alpha1", "kind": "Fleet", "metadata": metadata, "models": []}
    (found,) = fleet.read(Documents([Document(content)]), OPTIONS).findings
    assert f"{found.origin.field}: {found.message} -> {found.fix}".startswith(expected)


def test_what_others_call_a_fleet_is_none_of_ours() -> None:
    content = {"apiVersion": "agones.dev/v1", "kind": "Fleet", "metadata": {"name": "a"}, "spec": {}}
    reading = fleet.read(Documents([Document(content)]), OPTIONS)
    assert (reading.routers, reading.findings) == ((), ())


FAULTS = {
    "prot": "1",
    "foo": "[1]",
    "port": "0",
    "timeout": "never",
    "health": "'x y'",
    "region": "'x y'",
    "local": "perhaps",
    "servedAs": "5",
}
"""Fields of servers that are wrong whatever stands beside them."""


@given(wrong=st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, unique=True), of_a_model=st.booleans())
def test_all_faults_of_a_model_or_backend_are_told_and_no_others(
    wrong: list[str], *, of_a_model: bool
) -> None:
    fields = ", ".join(f"{name}: {FAULTS[name]}" for name in wrong)
    if of_a_model:
        found = told(f"models: [{GOOD}, {{name: a, pods: {{a: b}}, {fields}}}]")
    else:
        found = told(f"models: [{GOOD}]", f"backends: {{a: {{pods: {{a: b}}, {fields}}}}}")
    where = "models[a]" if of_a_model else "backends.a"
    assert {one.partition(" ")[0] for one in found} == {f"{where}.{name}" for name in wrong}
    assert len(found) == len(wrong)


@pytest.mark.parametrize("field", ["pods: 5", "hosts: 5", "url: 5", "pool: 5", "service: 5", "provider: x"])
def test_nothing_is_told_that_only_follows_from_another_fault(field: str) -> None:
    """A key without a use, servers that are nowhere."""
    (found,) = told(f"models: [{GOOD}, {{name: a, secret: k, {field}}}]")
    assert found.startswith(f"models[a].{field.partition(':')[0]} ")


def test_every_name_that_leads_nowhere_is_told() -> None:
    text = f"models: [{GOOD}, {{name: a, backends: [god, good, nobody, bad]}}]", "backends: {bad: {prot: 1}}"
    found = [one.partition(" -> ")[0] for one in told(*text) if one.startswith("models")]
    assert found == [
        'models[a].backends BackendsUnresolved: there is no backend and no model "god"',
        'models[a].backends BackendsUnresolved: there is no backend and no model "nobody"',
        'models[a].backends BackendsUnresolved: uses "bad", which has an error',
    ]
