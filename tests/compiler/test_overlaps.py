"""What routers of one Gateway take from each other, and when the younger is refused for it."""

import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import order, overlaps
from epp.compiler.findings import Finding, Origin
from epp.compiler.intent import Access, Condition, GatewayRef, Jwt, Router, Rule
from epp.compiler.order import Match
from tests.compiler.makers import backend, origin, pool, router, rule

HERE = backend(pool("here"))
MODEL = "x-model"


def asks(**headers: str) -> tuple[Condition, ...]:
    return tuple(Condition(f"x-{name}", (value,)) for name, value in headers.items())


PII: dict[str, Any] = {"conditions": asks(kind="pii"), "sensitive": True}
RED: dict[str, Any] = {"conditions": asks(team="red")}
TWO: dict[str, Any] = {"conditions": asks(team="red", app="q")}
QWEN, QWEN_RED = {"models": ("qwen",)}, {"models": ("qwen",), **RED}
QWEN_PII = {"models": ("qwen",), **PII}
PATTERN, DEFAULT = {"models": ("qw*",)}, {"is_default": True}


def of(name: str, *rules: dict[str, Any], hosts: tuple[str, ...] = (), **more: Any) -> Router:
    made = (rule(HERE, name=f"{name}-{at}", of=origin(name), **one) for at, one in enumerate(rules))
    return router(name, *made, created=f"2026-01-01T00:00:0{len(name)}Z", hostnames=hosts, **more)


def told(*routers: Router, first: Callable[[Router, Router], bool | None] = overlaps.by_age) -> list[Finding]:
    found = [
        order.closure([order.alternatives(one, MODEL) for one in each.rules], pivot=MODEL) for each in routers
    ]
    return list(overlaps.told(routers, found, model=MODEL, first=first))


@pytest.mark.parametrize(
    "older, younger, severity",
    [
        pytest.param([PII], [TWO], "error", id="more-headers-take-a-guarded-class"),
        pytest.param([PII], [RED], "error", id="as-many-may"),
        pytest.param([PII], [PATTERN], "error", id="so-may-a-pattern"),
        pytest.param([PII], [QWEN], "error", id="and-a-name"),
        pytest.param([PII], [DEFAULT], "", id="a-default-does-not"),
        pytest.param([{**TWO, "sensitive": True}], [RED], "warning", id="nor-less"),
        pytest.param([{**QWEN_RED, "sensitive": True}], [TWO], "error", id="a-guarded-name"),
        pytest.param([QWEN_PII], [RED], "", id="which-is-tried-first"),
        pytest.param([QWEN_PII, TWO], [TWO], "error", id="whatever-else-the-older-has"),
        pytest.param([QWEN_PII], [{"models": ("gpt*",), **TWO}], "", id="other-models"),
        pytest.param([TWO], [PII], "error", id="an-older-one-takes-what-the-younger-guards"),
        pytest.param([DEFAULT], [PII], "", id="the-older-default-does-not"),
        pytest.param([QWEN], [PII], "warning", id="a-name-is-its-owners"),
        pytest.param([RED], [TWO], "warning", id="nothing-is-guarded"),
        pytest.param([PII], [{"conditions": asks(kind="public")}], "", id="no-request-fits-both"),
    ],
)
def test_guarded_requests_are_not_anothers(
    older: list[dict[str, Any]], younger: list[dict[str, Any]], severity: str
) -> None:
    found = told(of("a", *older), of("bb", *younger))
    assert [(one.code, str(one.severity), one.origin.name) for one in found] == (
        [("RequestsOfAnother", severity, "bb")] if severity else []
    )


def test_what_is_tried_sooner_still_is_safe() -> None:
    """The older has a stronger match for just these requests."""
    older = of("a", {"conditions": asks(kind="pii", team="red", app="q"), "sensitive": True}, PII)
    assert [one.is_error for one in told(older, of("bb", TWO))] == [False]


def test_to_be_refused_is_safe() -> None:
    refusing = router("bb", rule(of=origin("bb"), **TWO), created="2026-02-01T00:00:00Z")
    (found,) = told(of("a", PII), refusing)
    assert not found.is_error


def test_each_rule_at_fault_is_named() -> None:
    found = told(
        of("a", PII),
        router("bb", rule(HERE, of=origin("bb").at("x"), **TWO), rule(HERE, of=origin("bb").at("y"), **RED)),
    )
    assert sorted(one.origin.field for one in found) == ["x", "y"]


@pytest.mark.parametrize(
    "older, younger, told_of",
    [
        pytest.param((), ("ai.example.com",), "RequestsOfAnother", id="only-one-has-a-hostname"),
        pytest.param(("*.example.com",), ("ai.example.com",), "RequestsOfAnother", id="without-a-star"),
        pytest.param(("ai.example.com",), (), "HostnameHidesModels", id="the-older-has-it"),
        pytest.param(("ai.example.com",), ("ai.example.com",), "", id="the-same"),
        pytest.param(("ai.example.com",), ("b.example.com",), "", id="two"),
    ],
)
def test_the_longest_hostname_counts_before_all_matches(
    older: tuple[str, ...], younger: tuple[str, ...], told_of: str
) -> None:
    found = told(of("a", QWEN_PII, hosts=older), of("bb", DEFAULT, hosts=younger))
    assert [one.code for one in found] == [told_of] * bool(told_of)
    assert all(one.is_error == (one.code == "RequestsOfAnother") for one in found)


def test_whose_models_are_not_there_is_told() -> None:
    """Names alone: nobody takes anything, and yet one of the two is not found."""
    gpt = {"models": ("gpt",)}
    (found,) = told(of("a", QWEN), of("bb", gpt, hosts=("ai.example.com",)))
    assert not found.is_error and "at ai.example.com models of ModelRouter/llm/a get 404" in found.message
    (found,) = told(of("a", QWEN, hosts=("ai.example.com",)), of("bb", gpt))
    assert "at ai.example.com models of ModelRouter/llm/bb get 404" in found.message


def test_a_listener_of_its_own_is_another_place() -> None:
    one, other = (
        replace(of(name, wanted), gateway=GatewayRef("ai", "edge", name))
        for name, wanted in (("a", PII), ("bb", TWO))
    )
    assert not told(one, other)


@pytest.mark.parametrize(
    "first, said", [(True, "a takes"), (False, "bb takes"), (None, "whose route was made first")]
)
def test_of_two_alike_it_is_told_who_has_it(first: bool | None, said: str) -> None:
    (found,) = told(
        of("a", RED),
        of("bb", RED),
        first=lambda one, _: first if first is None else (one.name == "a") is first,
    )
    assert said in found.message and not found.is_error


def test_what_not_the_same_clients_may_ask_is_an_error() -> None:
    jwt = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team")
    secured = of("a", RED, access=Access(jwt, origin("a")))
    assert [(one.code, one.is_error) for one in told(secured, of("bb", TWO))] == [
        ("AccessNotSeparable", True)
    ]
    alike = of("bb", TWO, access=Access(jwt, origin("bb")))
    assert [one.code for one in told(secured, alike)] == ["RequestsOfAnother"]


def test_an_error_is_told_after_a_warning_about_another() -> None:
    """The warning of an older one does not end the search."""
    site = of("a", RED), of("bb", PII), of("ccc", TWO)
    (found,) = [one for one in told(*site) if one.origin.name == "ccc"]
    assert found.is_error and "ModelRouter/llm/bb" in found.message


def test_what_a_name_takes_of_a_guarded_class_is_an_error_wherever_names_are_kept() -> None:
    site = of("a", PII), of("bb", QWEN)
    found = [order.closure([order.alternatives(one, MODEL) for one in each.rules]) for each in site]
    assert [one.origin.name for one in overlaps.errors(site, found, model=MODEL)] == ["bb"]
    (kept,) = overlaps.told(site, found, model=MODEL, names_kept={0, 1})
    assert kept.is_error


# --- for any routers: as if every match were compared with every other -------------------------------------

rules = st.fixed_dictionaries(
    {},
    optional={
        "models": st.lists(st.sampled_from(["qwen", "phi", "q*", "*"]), min_size=1, max_size=2).map(tuple),
        "conditions": st.dictionaries(
            st.sampled_from(["team", "app"]), st.sampled_from("abc"), min_size=1
        ).map(lambda headers: asks(**headers)),
        "sensitive": st.booleans(),
    },
)
hosts = st.sampled_from([(), (), ("ai.example.com",), ("*.example.com",), ("*.example.com", "b.example.org")])
accesses = st.sampled_from([None, None, None, "one", "other"])


@st.composite
def sites(draw: st.DrawFn) -> list[Router]:
    found = []
    for age in range(1, draw(st.integers(2, 5)) + 1):
        said = draw(accesses)
        jwt = Jwt(f"https://{said}.example.com", "https://idp.example.com/jwks", "team", "x-team")
        made = of(
            "r" * age,
            *draw(st.lists(rules, min_size=1, max_size=3)),
            hosts=draw(hosts),
            access=Access(jwt, origin("r" * age)) if said else None,
        )
        placed = (replace(one, origin=one.origin.at(one.name)) for one in made.rules)
        served = (one if draw(st.integers(0, 4)) else replace(one, backends=()) for one in placed)
        section = draw(st.sampled_from(["", "", "a", "b"]))
        found.append(replace(made, rules=tuple(served), gateway=GatewayRef("ai", "edge", section)))
    return found


@given(site=sites(), kept=st.sets(st.integers(0, 4)), first=st.sampled_from([True, False, None]))
def test_what_is_told_is_what_comparing_all_of_them_tells(
    site: list[Router], kept: set[int], first: bool | None
) -> None:
    found = [
        order.closure([order.alternatives(one, MODEL) for one in each.rules], pivot=MODEL) for each in site
    ]
    all_told = overlaps.told(site, found, model=MODEL, first=lambda *_: first, names_kept=kept)
    plain = Plain(site, found, kept, first)
    assert [said(one) for one in all_told if one.code != "HostnameHidesModels"] == [
        one for at in range(len(site)) for one in plain.told(at)
    ]
    plain = Plain(site, found, set(range(len(site))), None)
    assert [said(one) for one in overlaps.errors(site, found, model=MODEL)] == [
        one for at in range(len(site)) for one in plain.told(at) if one[0] == "error"
    ]


Said = tuple[str, str, Origin, str]
"""Severity, code, of what, and how the message begins."""


def said(one: Finding) -> Said:
    begins = one.message.partition(" requests of ")[0].partition(" want the same")[0]
    return str(one.severity), one.code, one.origin, begins


@dataclass(frozen=True)
class Plain:
    """Each match compared with each of all older routers, by what overlaps.told() promises."""

    site: Sequence[Router]
    found: Sequence[Sequence[Sequence[Match]]]
    kept: Container[int]
    first: bool | None

    def told(self, at: int) -> list[Said]:
        errors: dict[Origin, Said] = {}
        notes: list[Said] = []
        for older in (one for one in range(at) if overlaps.same_requests(self.site[one], self.site[at])):
            for taker, by, loser, of_ in self.pairs(older, at):
                is_tie = self.takes(taker, by, loser, of_)
                if is_tie is None:
                    continue
                fault = self.fault(taker, by, loser, of_)
                names = [self.site[one].origin.object for one in (taker, loser)]
                begins = " and ".join(names) if is_tie else f"{names[0]} takes"
                mine = (of_ if taker == older else by)[0].origin
                if fault:
                    errors.setdefault(mine, ("error", fault, mine, begins))
                elif of_[1] or not by[1]:
                    notes.append(("warning", "RequestsOfAnother", self.site[at].origin, begins))
        return [*errors.values()] or notes[:1]

    def pairs(self, older: int, younger: int) -> Iterator[tuple[int, "Placed", int, "Placed"]]:
        """Of which something may be told: the first takes of the second."""
        for one, other in itertools.product(self.placed(older), self.placed(younger)):
            if is_wide(one[1]):
                yield older, one, younger, other
        for one, other in itertools.product(self.placed(younger), self.placed(older)):
            if is_wide(one[1]):
                yield younger, one, older, other
        for one, other in itertools.product(self.placed(younger), self.placed(older)):
            if not is_wide(one[1]) and is_wide(other[1]) and other[0].is_guarded:
                yield younger, one, older, other

    def placed(self, at: int) -> list["Placed"]:
        rules = zip(self.site[at].rules, self.found[at], strict=True)
        return [(rule, match) for rule, matches in rules for match in matches]

    def takes(self, taker: int, by: "Placed", loser: int, of_: "Placed") -> bool | None:
        """Whether nobody knows; None: no."""
        sooner, alike = hosts_of(self.site[taker], self.site[loser])
        strong, weak = len(by[1]), len(of_[1])
        is_tie = not sooner and strong == weak
        is_kept = loser in self.kept and not is_wide(of_[1])
        if not sooner and (not alike or strong < weak or is_kept or (is_tie and self.first is False)):
            return None
        for met in order.both(by[1], of_[1]):
            has = any(len(had) > strong and order.covers(had, met) for _, had in self.placed(loser))
            if sooner or not has:
                return is_tie and self.first is None
        return None

    def fault(self, taker: int, by: "Placed", loser: int, of_: "Placed") -> str:
        who = [overlaps.said(self.site[one]) for one in (taker, loser)]
        if not by[0].backends:
            return ""
        if of_[0].is_guarded:
            return "RequestsOfAnother"
        return "AccessNotSeparable" if who[0] != who[1] and (of_[1] or not by[1]) else ""


Placed = tuple[Rule, Match]


def is_wide(match: Match) -> bool:
    return not overlaps.names(MODEL, match)


def hosts_of(one: Router, other: Router) -> tuple[bool, bool]:
    """Whether at a hostname that both have the first is tried sooner; and whether at one they are alike."""
    found = []
    for a, b in itertools.product(one.hostnames or ("",), other.hostnames or ("",)):
        within = [x == y or (y[:2] == "*." and x.endswith(y[1:])) for x, y in ((a, b), (b, a))]
        if not a or not b or any(within):
            rank = [(bool(each) and each[0] != "*", len(each)) for each in (a, b)]
            found.append((rank[0] > rank[1], rank[0] == rank[1]))
    return any(sooner for sooner, _ in found), any(alike for _, alike in found)
