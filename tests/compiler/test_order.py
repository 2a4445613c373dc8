"""The first rule that fits decides, also where the gateway tries the match with more headers first."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import order
from epp.compiler.intent import Condition, Rule
from epp.compiler.order import Match, Strength
from epp.compiler.patterns import ANYTHING, EXACT, SPELLED, Matcher, of_model, of_value
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


def exact_first(match: Match) -> tuple[int, ...]:
    return order.by_exact_values([one.kind == EXACT for one in match.values()])


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
    glob, exact = closed(named("qwen-*"), named(team="red"), strength=exact_first)
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


@pytest.mark.parametrize("strength", [order.by_headers, exact_first])
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


@given(
    wanted=st.lists(rules, max_size=4),
    others=st.lists(rules, min_size=1, max_size=3),
    tried=st.lists(requests, min_size=1, max_size=10),
)
def test_others_get_nothing_that_fits_a_rule_for_a_model(
    wanted: list[Rule], others: list[Rule], tried: list[dict[str, str]]
) -> None:
    """By rules for more than a model. Of a tie nobody knows who has it: here they have."""
    plain = [[one for one in order.alternatives(rule, MODEL) if is_named(one)] for rule in wanted]
    foreign = [one for rule in others for one in order.alternatives(rule, MODEL) if not is_named(one)]
    after = [(match, (*exact_first(match), 1)) for match in foreign]
    written = order.closure(plain, strength=exact_first, pivot=MODEL, after=after)
    for request in tried:
        wanted_of = first([[], *plain], request)
        if wanted_of is not None:
            assert gateway([foreign, *written], request, exact_first) == wanted_of


def is_named(match: Match) -> bool:
    return MODEL in match and match[MODEL].kind == EXACT


matchers = st.one_of(
    st.builds(Matcher, st.sampled_from("ab"), st.sampled_from([EXACT, SPELLED])),
    st.builds(of_model, st.sampled_from(["a*", "?"])),
    st.just(ANYTHING),
)
any_matches = st.dictionaries(st.sampled_from(["x", "y", "z"]), matchers)


@given(placed=st.lists(any_matches, max_size=12), dropped=st.sets(st.integers(0, 11)), asked=any_matches)
def test_whoever_may_meet_is_near(placed: list[Match], dropped: set[int], asked: Match) -> None:
    """In the order of their numbers; those that ask for other values are not."""
    near: order.Near[int] = order.Near()
    for number, match in enumerate(placed):
        near.add(number, match, number)
    left = set(range(len(placed))) - dropped
    for number in set(range(len(placed))) & dropped:
        near.drop(number, placed[number])
    assert near.to(asked) == [number for number in sorted(left) if not differ(placed[number], asked)]
    assert set(near.to(asked)) >= {number for number in left if any(order.both(placed[number], asked))}


def differ(one: Match, other: Match) -> bool:
    texts = [(one[name], other[name]) for name in one.keys() & other.keys()]
    return any(a.is_text and b.is_text and a.value != b.value for a, b in texts)
