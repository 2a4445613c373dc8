"""The same as test_meaning, of what its routers leave out: timeouts, for which some gateways need a route
each; names with a slash, and patterns that know one; shares.

And how seldom anything is refused: a compiler that refused everything would pass there.
"""

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from epp.compiler.options import Target
from tests.meaning import proxy
from tests.meaning.gateways import Order
from tests.meaning.request import Request
from tests.meaning.routers import requests, routers
from tests.meaning.test_meaning import CASES, compiled, gateway

GLOBS = ("*", "*/*", "org/*", "qwen*", "[^a]*", "org?qwen", "o[a-z]g[/]qwen", r"org\/qwen")
NAMES = ("org/qwen", "org/", "/", "a/b/c")
WRONG = {"SpecInvalid", "UnsafeSensitiveRoute"}
"""Of routers of which no rule is left, or that say nothing of whom sensitive requests may go to."""
MEANT = {
    Order.ENVOY: {*WRONG, "RuleOrderNotExpressible"},
    Order.DECLARED: {*WRONG, "RuleOrderNotExpressible"},
    Order.GATEWAY_API: {*WRONG, "UnsupportedMatchInGatewayMode"},
}
"""Sets of which nobody can write down what two share; rules that need two routes where only one is tried."""


@st.composite
def specs(draw: st.DrawFn, *, timeouts: bool, alone: bool) -> dict[str, Any]:
    """``alone``: no rule has two backends."""
    spec = draw(routers(cloud=False))
    for rule in spec["rules"]:
        route = rule["route"]
        if timeouts and draw(st.booleans()):
            rule["timeout"] = draw(st.sampled_from(["10s", "30m"]))
        if draw(st.integers(0, 2)) == 0:
            models = draw(st.lists(st.sampled_from(GLOBS), min_size=1, max_size=2))
            rule["match"] = {**rule.get("match", {}), "models": models}
        if alone:
            route["backends"] = route["backends"][:1]
        elif len(route["backends"]) > 1 and draw(st.integers(0, 3)) == 0:
            route["strategy"] = "weighted"
    return spec


@pytest.mark.parametrize("target, order", CASES, ids=lambda one: str(getattr(one, "name", one)).lower())
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_same_servers(target: Target, order: Order, data: st.DataObject) -> None:
    several = order is not Order.DECLARED  # routes, of which only the first is ever tried
    spec = data.draw(specs(timeouts=several, alone=target is Target.GATEWAY_API))
    result = compiled(spec, target, order)
    if result.failed:
        codes = {one.code for one in result.findings if one.is_error}
        event(f"refused: {sorted(codes)}")
        assert codes <= MEANT[order]
        if several:
            assert codes <= WRONG or _has_sets(spec)
        return
    routes = [one for one in result.objects if one.key[0] in {"AIGatewayRoute", "HTTPRoute"}]
    event(f"compiled to {len(routes)} routes")
    of = gateway(result, target, order)
    asked = [*requests(spec, names_none=of.names_none)]
    asked += [Request(name, one.headers) for name in NAMES for one in asked if one.model == "qwen"]
    wrong = [(one, w, g) for one in asked if not (w := proxy.answer(spec, one)).is_like(g := of.answer(one))]
    assert not wrong, wrong[:3]


def _has_sets(spec: dict[str, Any]) -> bool:
    """Two of them at least, or one beside a pattern."""
    patterns = [one for rule in spec["rules"] for one in rule.get("match", {}).get("models", ())]
    return any("[" in one for one in patterns) and len(spec["rules"]) > 1
