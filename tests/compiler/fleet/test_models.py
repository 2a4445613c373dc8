"""What a fleet file says of models, as rules."""

import pytest

from epp.compiler.intent import GatewayRef, Host, Pool, Schema, Strategy, Upstream
from epp.compiler.options import Options, Target
from tests.compiler.fleet.reading import read, router, rules


def test_a_model_of_pods_is_one_line() -> None:
    found = rules("models: [{name: qwen3-8b, pods: {app: qwen}}]")["qwen3-8b"]
    (backend,) = found.backends
    assert found.models == ("qwen3-8b",)
    assert isinstance(backend.servers, Pool)
    assert (backend.servers.name, backend.servers.namespace) == ("qwen3-8b", "llm")
    assert (dict(backend.servers.selector), backend.servers.ports) == ({"app": "qwen"}, (8000,))
    assert (found.timeout, backend.model, backend.local) == (120.0, "", True)


def test_pods_and_machines_are_one_pool() -> None:
    text = 'models: [{name: a, pods: {app: a}, hosts: ["10.0.0.21", "10.0.0.22:9000", "[fd00::21]:9000"]}]'
    (backend,) = rules(text)["a"].backends
    assert isinstance(backend.servers, Pool)
    assert backend.servers.selector == {"app": "a"}
    assert [(one.address, one.port) for one in backend.servers.hosts] == [
        ("10.0.0.21", 8000),
        ("10.0.0.22", 9000),
        ("fd00::21", 9000),
    ]
    assert len({one.name for one in backend.servers.hosts}) == 3


def test_a_machine_may_have_a_name_and_labels() -> None:
    text = "models: [{name: a, hosts: [{name: studio, address: 10.0.0.21, port: 81, labels: {tier: m}}]}]"
    (backend,) = rules(text)["a"].backends
    assert isinstance(backend.servers, Pool)
    assert backend.servers.hosts == (Host("studio", "10.0.0.21", 81, {"tier": "m"}),)


@pytest.mark.parametrize(
    "entry, expected",
    [
        ("{provider: openai, secret: k}", ("api.openai.com", 443, True, Schema.OPENAI, "/v1")),
        ("{provider: anthropic, secret: k}", ("api.anthropic.com", 443, True, Schema.ANTHROPIC, "/v1")),
        (
            "{provider: bedrock, region: eu-central-1}",
            ("bedrock-runtime.eu-central-1.amazonaws.com", 443, True, Schema.BEDROCK, ""),
        ),
        ('{url: "http://llm.lan:81/openai/v1/"}', ("llm.lan", 81, False, Schema.OPENAI, "/openai/v1")),
        ('{url: "https://llm.lan", provider: anthropic}', ("llm.lan", 443, True, Schema.ANTHROPIC, "/v1")),
        ('{service: "media/speech:81"}', ("speech.media.svc.cluster.local", 81, False, Schema.OPENAI, "/v1")),
    ],
)
def test_what_is_asked_as_it_stands(entry: str, expected: tuple[object, ...]) -> None:
    (backend,) = rules(f"{{models: [{{name: a, backends: [b]}}], backends: {{b: {entry}}}}}")["a"].backends
    assert isinstance(backend.servers, Upstream)
    found = backend.servers
    assert (found.host, found.port, found.tls, found.schema, found.prefix) == expected


def test_a_pool_that_is_there_is_only_named() -> None:
    (backend,) = rules("models: [{name: a, pool: other/legacy}]")["a"].backends
    assert isinstance(backend.servers, Pool)
    assert (backend.servers.name, backend.servers.namespace, backend.servers.exists) == (
        "legacy",
        "other",
        True,
    )


def test_short_names_for_long_ones() -> None:
    found = rules("models: [{name: big, aliases: [large], backends: [north/Qwen/Qwen3-235B, south/q]}]")
    assert found["big"].models == ("big", "large")
    assert [(one.name, one.model) for one in found["big"].backends] == [
        ("north", "Qwen/Qwen3-235B"),
        ("south", "q"),
    ]
    assert found["big"].strategy is Strategy.FALLBACK


def test_a_name_that_the_backend_knows_stays_as_it_is() -> None:
    text = "models: [{name: gpt-5, backends: [north]}, {name: openai/gpt-5, backends: [north/openai/gpt-5]}]"
    assert [one.backends[0].model for one in router(text).rules] == ["", ""]


def test_an_alias_has_a_rule_of_its_own_where_a_picker_chooses() -> None:
    """Envoy AI Gateway asks no picker where it changes the model's name."""
    found = router("models: [{name: qwen, aliases: [small], pods: {app: q}}]").rules
    assert [(one.models, one.backends[0].model) for one in found] == [(("qwen",), ""), (("small",), "qwen")]


def test_servers_that_take_every_name_are_asked_as_the_client_asked() -> None:
    (found,) = router('models: [{name: qwen, aliases: [small], servedAs: "*", pods: {app: q}}]').rules
    assert (found.models, found.backends[0].model) == (("qwen", "small"), "")


def test_a_canary_gets_its_share() -> None:
    text = """
    models: [{name: coder, backends: {v1: 90, v2: 10}}]
    backends: {v1: {pods: {v: one}, servedAs: coder}, v2: {pods: {v: two}, servedAs: coder}}
    """
    found = rules(text)["coder"]
    assert found.strategy is Strategy.WEIGHTED
    assert [(one.name, one.weight, one.model) for one in found.backends] == [("v1", 90, ""), ("v2", 10, "")]


class TestCombined:
    def test_models_of_models_are_made_flat(self) -> None:
        text = """
        models:
        - {name: small, pods: {app: s}}
        - {name: large, backends: [north/L, south/l]}
        - {name: chat, backends: [large, small, north/L]}
        """
        found = rules(text)["chat"]
        assert [(one.name, one.model) for one in found.backends] == [
            ("north", "L"),
            ("south", "l"),
            ("small", "small"),
        ]

    def test_a_part_is_asked_by_its_own_name_though_it_takes_every_name(self) -> None:
        """Else a picker would take servers of different models for servers of one."""
        text = """
        models:
        - {name: a, servedAs: "*", pods: {app: a}}
        - {name: b, servedAs: "*", pods: {app: b}}
        - {name: both, backends: [a, b]}
        """
        assert [one.model for one in rules(text)["both"].backends] == ["a", "b"]

    def test_one_part_that_takes_every_name_is_asked_as_the_client_asked(self) -> None:
        """So that its picker can choose; beside a provider, at home only."""
        text = """
        models:
        - {name: qwen, aliases: [small], servedAs: "*", pods: {app: q}}
        - {name: chat, backends: [small]}
        - {name: best, backends: [north/large, qwen]}
        sensitive: {classes: [pii]}
        """
        found = router(text).rules
        called = {(one.models, one.sensitive): [b.model for b in one.backends] for one in found}
        assert called == {
            (("qwen", "small"), False): [""],
            (("chat",), False): [""],
            (("best",), False): ["large", "qwen"],
            (("best",), True): [""],
        }

    def test_shares_of_shares_multiply(self) -> None:
        text = """
        models:
        - {name: half, backends: {north/x: 1, south/x: 1}}
        - {name: most, backends: {half: 90, south/y: 10}}
        """
        found = rules(text)["most"]
        assert [(one.model, one.weight) for one in found.backends] == [("x", 45), ("x", 45), ("y", 10)]

    def test_shares_stay_within_what_gateways_take(self) -> None:
        text = """
        models:
        - {name: a, backends: {north/x: 999983, south/x: 1}}
        - {name: b, backends: {a: 999979, south/y: 1}}
        """
        weights = [one.weight for one in rules(text)["b"].backends]
        assert max(weights) <= 1_000_000
        assert min(weights) >= 1

    def test_a_model_keeps_its_timeout_within_another(self) -> None:
        text = """
        timeout: 5m
        models: [{name: slow, timeout: 30m, backends: [north/s]}, {name: chat, backends: [slow, south/c]}]
        """
        found = rules(text)["chat"]
        assert (found.timeout, [one.timeout for one in found.backends]) == (None, [1800.0, 300.0])

    def test_a_backend_may_have_the_name_of_its_model(self) -> None:
        text = """
        models: [{name: qwen, backends: [qwen]}, {name: chat, backends: [qwen]}]
        backends: {qwen: {url: "http://qwen.lan"}}
        """
        assert [one.backends[0].name for one in router(text).rules] == ["qwen", "qwen"]


def test_names_come_before_patterns_and_the_default_last() -> None:
    text = """
    models: [{name: "gpt-*", backends: [north]}, {name: gpt-oss, pods: {app: oss}}]
    defaultModel: gpt-oss
    """
    found = router(text).rules
    assert [one.models for one in found] == [("gpt-oss",), ("gpt-*",), ()]
    assert [one.is_default for one in found] == [False, False, True]
    assert [one.backends[0].model for one in found] == ["", "", "gpt-oss"]


class TestTimeouts:
    @pytest.mark.parametrize(
        "written, seconds", [("1.5s", 1.5), ("1m30s", 90.0), ("100ms", 0.1), ("24h", 86400.0)]
    )
    def test_fractions_and_sums_are_read(self, written: str, seconds: float) -> None:
        assert rules(f"models: [{{name: a, pods: {{a: b}}, timeout: {written}}}]")["a"].timeout == seconds

    def test_the_models_own_counts_first_then_the_backends_then_the_fleets(self) -> None:
        text = """
        timeout: 1m
        models: [{name: a, timeout: 3m, backends: [x]}, {name: b, backends: [x]}, {name: c, backends: [y]}]
        backends: {x: {url: "http://x.lan", timeout: 2m}, y: {url: "http://y.lan"}}
        """
        assert [one.timeout for one in router(text).rules] == [180.0, 120.0, 60.0]


class TestSensitive:
    TEXT = """
    models:
    - {name: home, pods: {app: h}}
    - {name: both, backends: [home, north/b]}
    - {name: away, aliases: [far], backends: [north/a]}
    sensitive: {classes: [PII, phi]}
    """

    def test_they_go_to_backends_in_the_house_only(self) -> None:
        (guard,) = [one for one in router(self.TEXT).rules if one.models == ("both",) and one.conditions]
        (condition,) = guard.conditions
        assert [one.name for one in guard.backends] == ["home"]
        assert guard.fail_closed and guard.sensitive
        assert (condition.header, condition.values, condition.ignore_case) == (
            "x-data-class",
            ("PII", "phi"),
            True,
        )

    def test_where_nobody_in_the_house_serves_they_are_refused(self) -> None:
        (guard,) = [one for one in router(self.TEXT).rules if "away" in one.models and one.conditions]
        assert (guard.models, guard.backends, guard.fail_closed) == (("away", "far"), (), True)

    def test_a_model_that_is_all_in_the_house_needs_no_rule_of_its_own(self) -> None:
        assert [one.conditions for one in router(self.TEXT).rules if one.models == ("home",)] == [()]

    def test_guards_come_first(self) -> None:
        flags = [bool(one.conditions) for one in router(self.TEXT).rules]
        assert flags == sorted(flags, reverse=True)

    def test_only_the_named_models_may_serve_them(self) -> None:
        text = self.TEXT.replace("[PII, phi]", "[PII, phi], models: [home]")
        refused = [one.models for one in router(text).rules if one.conditions]
        assert refused == [("both", "away", "far")]

    def test_what_nothing_else_wants_is_guarded_too(self) -> None:
        *_, guard, default = router(self.TEXT, "defaultModel: away").rules
        assert default.is_default
        assert (guard.models, guard.backends, bool(guard.conditions)) == ((), (), True)

    def test_a_pattern_does_not_guard_names_of_others(self) -> None:
        text = """
        models: [{name: "gpt-*", backends: [north]}, {name: gpt-oss, pods: {app: oss}}]
        sensitive: {classes: [pii]}
        """
        assert [one.models for one in router(text).rules] == [("gpt-oss",), ("gpt-*",), ("gpt-*",)]

    def test_a_pattern_alone_guards_itself_alone(self) -> None:
        """A guard without models would take the sensitive requests of all others."""
        text = """
        models: [{name: "q-*", backends: [home, north]}, {name: other, pods: {app: o}}]
        backends: {home: {pods: {app: h}}, north: {url: "https://llm.north.example", secret: key}}
        sensitive: {classes: [pii]}
        """
        found = router(text).rules
        assert [(one.models, bool(one.conditions)) for one in found] == [
            (("other",), False),
            (("q-*",), True),
            (("q-*",), False),
        ]


def test_who_answers_for_a_model_is_handed_on() -> None:
    assert rules("models: [{name: a, pods: {a: b}, owner: search}]")["a"].owner == "search"


class TestGateway:
    def test_the_file_names_it(self) -> None:
        text = "{models: [{name: a, pods: {a: b}}], listener: https, hostnames: [ai.example.com]}"
        assert router(text).gateway == GatewayRef("ai", "edge", "https")

    def test_else_the_command_line(self) -> None:
        options = Options(Target.GATEWAY_API, gateway=GatewayRef("g", "ns"))
        (found,) = read("models: [{name: a, pods: {a: b}}]", gateway="", options=options).routers
        assert found.gateway == GatewayRef("g", "ns")


def test_machines_are_asked_at_their_models_port_where_they_name_none() -> None:
    text = "models: [{name: a, pods: {app: a}, port: 9000, hosts: [10.0.0.21, '10.0.0.22:81']}]"
    (backend,) = rules(text)["a"].backends
    assert isinstance(backend.servers, Pool)
    assert backend.servers.ports == (9000,)
    assert [one.port for one in backend.servers.hosts] == [9000, 81]
