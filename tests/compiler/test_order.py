"""The first rule that fits decides, also where the gateway tries the match with more headers first."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import order
from epp.compiler.intent import Condition, Rule
from epp.compiler.order import Match, Strength
from epp.compiler.patterns import of_model, of_value
from tests.compiler.makers import backend, origin, pool, rule

MODEL, TEAM, KIND = "model", "team", "class"


def named(*models: str, **conditions: str) -> Rule:
    """``class_``: in whatever case."""
    given_ = tuple(
        Condition(name.rstrip("_"), tuple(values.split()), ignore_case=name.endswith("_"))
        for name, values in conditions.items()
    )
    return rule(backend(pool("a")), of=origin("r"), models=models, conditions=given_)


def fits(match: Match, request: dict[str, str]) -> bool:
    return all(name in request and matcher.accepts(request[name]) for name, matcher in match.items())


def gateway(rules: Sequence[Sequence[Match]], request: dict[str, str], strength: Strength) -> int | None:
    """Which rule a gateway takes: the strongest match that fits, then the first rule."""
    found = [
        (tuple(-one for one in strength(match)), index)
        for index, matches in enumerate(rules)
        for match in matches
        if fits(match, request)
    ]
    return min(found)[1] if found else None


def first(rules: Sequence[Sequence[Match]], request: dict[str, str]) -> int | None:
    return next(
        (index for index, matches in enumerate(rules) if any(fits(match, request) for match in matches)), None
    )


def closed(*rules: Rule, strength: Strength = order.by_headers) -> list[list[Match]]:
    return order.closure([order.alternatives(one, MODEL) for one in rules], strength=strength, pivot=MODEL)


def test_rules_of_equal_strength_stay_as_they_are() -> None:
    assert [len(matches) for matches in closed(named("qwen"), named("phi"), named())] == [1, 1, 1]


def test_a_later_rule_with_more_headers_does_not_get_what_is_an_earlier_ones() -> None:
    """What is said of sensitive requests holds for those of a team with a rule of its own (defect a)."""
    pii, team, model = closed(named(class_="pii"), named("qwen", team="red"), named("qwen"))
    both = {KIND: of_value("pii", ignore_case=True), MODEL: of_model("qwen"), TEAM: of_value("red")}
    assert pii == [{KIND: both[KIND]}, both]
    assert (len(team), len(model)) == (1, 1)


def test_a_rule_that_an_earlier_one_covers_is_never_reached() -> None:
    assert closed(named("qwen-*"), named("qwen-3", team="red"), named("phi")) == [
        [{MODEL: of_model("qwen-*")}],
        [],
        [{MODEL: of_model("phi")}],
    ]


def test_envoy_gateway_puts_exact_values_before_patterns() -> None:
    glob, exact = closed(named("qwen-*"), named(team="red"), strength=order.by_headers_and_exact_values)
    assert {TEAM: of_value("red"), MODEL: of_model("qwen-*")} in glob
    assert exact == [{TEAM: of_value("red")}]


def test_two_conditions_on_one_header_are_both_asked_for() -> None:
    assert order.alternatives(named("qwen-3", "phi", model="qwen-3"), MODEL) == [{MODEL: of_model("qwen-3")}]


def test_what_has_no_written_form_is_refused() -> None:
    with pytest.raises(order.Unordered, match=r"header model: .* cannot be written down"):
        closed(named("[ab]*"), named("[bc]*", team="red"))


def test_too_many_combinations_are_refused() -> None:
    many = " ".join(map(str, range(100)))
    with pytest.raises(order.Unordered, match="more than 4096 combinations"):
        order.alternatives(named(*(f"m{one}" for one in range(100)), team=many), MODEL)


# --- for any rules and requests -----------------------------------------------------------------------------

models = st.sampled_from(["qwen", "phi", "qwen-*", "*", "q*n", "qwe?", "q*"])
values = {TEAM: st.sampled_from(["red", "blue"]), "class_": st.sampled_from(["pii", "PHI"])}
rules = st.builds(
    lambda names, conditions: named(*names, **conditions),
    st.lists(models, max_size=2),
    st.fixed_dictionaries({}, optional=values),
)
requests = st.fixed_dictionaries(
    {MODEL: st.sampled_from(["qwen", "phi", "qwen-3", "other", "", "a/b"])},
    optional={TEAM: st.sampled_from(["red", "blue", "green"]), KIND: st.sampled_from(["pii", "PII", "phi"])},
)


@pytest.mark.parametrize("strength", [order.by_headers, order.by_headers_and_exact_values])
@given(wanted=st.lists(rules, max_size=6), tried=st.lists(requests, min_size=1, max_size=10))
def test_the_gateway_takes_the_first_rule_that_fits(
    strength: Strength, wanted: list[Rule], tried: list[dict[str, str]]
) -> None:
    plain = [order.alternatives(one, MODEL) for one in wanted]
    written = order.closure(plain, strength=strength, pivot=MODEL)
    for request in tried:
        assert gateway(written, request, strength) == first(plain, request)


@given(wanted=st.lists(rules, max_size=6))
def test_the_pivot_only_makes_it_faster(wanted: list[Rule]) -> None:
    plain = [order.alternatives(one, MODEL) for one in wanted]
    with_pivot, without = (order.closure(plain, pivot=pivot) for pivot in (MODEL, ""))
    for one, other in zip(with_pivot, without, strict=True):
        assert {tuple(sorted(match.items())) for match in one} == {tuple(sorted(m.items())) for m in other}


@given(
    st.lists(st.lists(st.integers(), max_size=30), max_size=12),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 20),
)
def test_nothing_is_lost_or_moved_where_routes_are_split(
    wanted: list[list[int]], most_rules: int, most_matches: int, most_in_route: int
) -> None:
    routes = order.split(
        wanted, rules_per_route=most_rules, matches_per_rule=most_matches, matches_per_route=most_in_route
    )
    flat = [(share.rule, one) for route in routes for share in route for one in share.matches]
    assert flat == [(index, one) for index, matches in enumerate(wanted) for one in matches]
    for route in routes:
        assert 0 < len(route) <= most_rules
        assert all(0 < len(share.matches) <= most_matches for share in route)
        assert sum(len(share.matches) for share in route) <= most_in_route
