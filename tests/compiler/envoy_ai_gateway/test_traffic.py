"""How requests are tried: timeouts, attempts, health, one policy for a route."""

import pytest

from epp.compiler.intent import Budget, Scope
from tests.compiler.envoy_ai_gateway.made import NEW, OLD, made, provider
from tests.compiler.makers import backend, origin, pool, router, rule


def test_each_backend_is_tried_once_after_any_failure() -> None:
    """500 to 599, a broken connection, no answer in time: as LLMKube's proxy has it."""
    asked = rule(provider("one"), provider("two"), provider("three"), models=("qwen",), timeout=10.0)
    found = made(router("mr", asked))
    retry = found.one("BackendTrafficPolicy")["retry"]
    assert retry["numRetries"] == 2 and retry["numAttemptsPerPriority"] == 1
    assert retry["perRetry"] == {"timeout": "10s"}
    assert retry["retryOn"] == {"triggers": ["5xx", "connect-failure", "refused-stream", "reset"]}


def test_a_route_lasts_until_the_last_attempt_is_over() -> None:
    """Streams too: without it 60 s would be their end."""
    asked = rule(provider("one"), provider("two"), models=("qwen",), timeout=600.0)
    for target, idle in ((OLD, None), (NEW, "10m")):
        found = made(router("mr", asked), target=target)
        (rules,) = found.rules
        assert rules["timeouts"] == {"request": "20m1s"}
        assert rules.get("streamIdleTimeout") == idle
        http = found.one("BackendTrafficPolicy")["timeout"]["http"]
        assert http == {"streamIdleTimeout": "20m1s"}, "else 5 minutes, which reading a prompt can take"


def test_one_that_is_down_is_not_tried() -> None:
    asked = rule(provider("one", down="gone"), provider("two"), models=("qwen",))
    assert "retry" not in made(router("mr", asked)).one("BackendTrafficPolicy")


def test_where_nothing_is_said_an_attempt_has_two_minutes() -> None:
    (found,) = made(router("mr", rule(provider("one"), models=("qwen",)))).rules
    assert found["timeouts"] == {"request": "2m"}


def test_backends_of_one_rule_share_the_longest_timeout() -> None:
    asked = rule(provider("one", timeout=10.0), provider("two", timeout=300.0), models=("qwen",))
    found = made(router("mr", asked))
    assert found.one("BackendTrafficPolicy")["retry"]["perRetry"] == {"timeout": "5m"}
    assert found.codes() == ["OneTimeoutForAll"]


def test_a_rule_of_10_s_does_not_share_the_attempts_of_one_of_30_min() -> None:
    """They are in two routes, each with a policy of its own."""
    quick = rule(provider("a"), provider("b"), name="quick", models=("q",), timeout=10.0)
    slow = rule(provider("c"), provider("d"), name="slow", models=("s",), timeout=1800.0)
    also_quick = rule(provider("e"), provider("f"), name="also-quick", models=("a",), timeout=10.0)
    found = made(router("mr", quick, slow, also_quick))
    assert [len(one["spec"]["rules"]) for one in found.all("AIGatewayRoute")] == [2, 1]
    timeouts = [one["spec"]["retry"]["perRetry"]["timeout"] for one in found.all("BackendTrafficPolicy")]
    assert timeouts == ["10s", "30m"]


def test_every_route_has_exactly_one_policy() -> None:
    rules = [rule(provider(f"p{n}"), name=f"r{n}", models=(f"m{n}",), timeout=float(n + 1)) for n in range(5)]
    found = made(router("mr", *rules, rule(backend(pool("rest")), is_default=True)))
    targets = [ref["name"] for one in found.all("BackendTrafficPolicy") for ref in one["spec"]["targetRefs"]]
    assert sorted(targets) == sorted(one["metadata"]["name"] for one in found.all("AIGatewayRoute"))
    assert len(targets) == 6


@pytest.mark.parametrize(
    "paths, checked, told",
    [
        (("/health", "/health"), "/health", []),
        (("/health", "/api/tags"), None, ["NoActiveHealthCheck"]),
        (("/health", ""), None, ["NoActiveHealthCheck"]),
        (("", ""), None, []),
    ],
)
def test_health_is_asked_where_all_answer(
    paths: tuple[str, ...], checked: str | None, told: list[str]
) -> None:
    backends = [provider(f"b{at}", health_path=path) for at, path in enumerate(paths)]
    found = made(router("mr", rule(*backends, models=("qwen",))))
    health = found.one("BackendTrafficPolicy")["healthCheck"]
    assert health.get("active", {}).get("http", {}).get("path") == checked
    assert health["panicThreshold"] == 0 and health["passive"]["maxEjectionPercent"] == 100
    assert found.codes() == told


def test_the_picker_knows_who_is_well() -> None:
    policy = made(router("mr", rule(backend(pool("cuda"), health_path="/health"), models=("q",)))).one(
        "BackendTrafficPolicy"
    )
    assert "healthCheck" not in policy and "rateLimit" not in policy
    triggers = policy["retry"]["retryOn"]["triggers"]
    assert triggers == ["connect-failure", "refused-stream", "reset-before-request"]


def test_a_busy_backend_is_not_cut_off_at_1024_requests() -> None:
    policy = made(router("mr", rule(provider("one"), models=("q",)))).one("BackendTrafficPolicy")
    assert set(policy["circuitBreaker"].values()) == {100_000}
    assert (
        policy["timeout"]["tcp"] == {"connectTimeout": "2s"} and policy["tcpKeepalive"]["idleTime"] == "10s"
    )


def test_what_rules_share_is_enough_for_each_whatever_their_order() -> None:
    """Servers beside a pool's are looked after, though the pool's picker needs no such."""
    shared = Budget("all", Scope.ROUTER, 1000, 3600, origin("mr"))
    picked = rule(backend(pool("cuda")), name="picked", models=("qwen",))
    tried = rule(provider("a"), provider("b"), name="tried", models=("gpt",))
    policies = [
        made(router("mr", *rules, budgets=(shared,))).one("BackendTrafficPolicy")
        for rules in ((picked, tried), (tried, picked))
    ]
    alone = made(router("mr", tried)).one("BackendTrafficPolicy")
    for found in policies:
        assert found["retry"] == alone["retry"] and found["healthCheck"] == alone["healthCheck"]
