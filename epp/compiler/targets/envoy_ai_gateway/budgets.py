"""Budgets of tokens, as limits that Envoy's rate-limit service counts.

Place:   in the BackendTrafficPolicy of the routes that they are for.
Rule:    a limit is shared by all routes of its policy: else each match of each rule would have one of its
         own. So what counts for several routes together needs one policy for all of them.
Source:  Envoy AI Gateway puts the tokens of an answer into io.envoy.ai_gateway; a request itself costs
         nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

from epp.compiler import order
from epp.compiler.documents import Documents
from epp.compiler.emission import Object
from epp.compiler.findings import Finding, info, warning
from epp.compiler.intent import Budget, Router, Rule, Scope
from epp.compiler.patterns import Matcher, of_model, of_value
from epp.compiler.targets.envoy_ai_gateway.backends import Plan
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL
from epp.compiler.targets.envoy_ai_gateway.refused import Refused
from epp.compiler.targets.envoy_ai_gateway.traffic import Traffic

COSTS = [
    {"metadataKey": "llm_input_token", "type": "InputToken"},
    {"metadataKey": "llm_output_token", "type": "OutputToken"},
    {"metadataKey": "llm_total_token", "type": "TotalToken"},
]
"""The same for every route: keys of all routes of a Gateway are one list."""

MOST = 4_294_967_295
_LONGEST_VALUE = 1024

_UNITS = (
    ("Year", 31_536_000),
    ("Month", 2_592_000),
    ("Day", 86_400),
    ("Hour", 3600),
    ("Minute", 60),
    ("Second", 1),
)
_RATE_LIMIT = re.compile(r"^\s*rateLimit:", re.MULTILINE)
_COMMON = [one for one in _UNITS if one[1] <= 86_400]


@dataclass(frozen=True, slots=True)
class Limits:
    """``shared``: of all the router's routes, which then are tried in one way, ``traffic``. ``own``: of the
    rules, by name.
    """

    shared: tuple[Object, ...] = ()
    traffic: Traffic | None = None
    own: tuple[tuple[str, Object], ...] = ()

    @property
    def need_costs(self) -> bool:
        """Whether tokens are to be counted."""
        return bool(self.shared or self.own)

    def of_rule(self, rule: Rule) -> tuple[Object, ...]:
        """What needs a policy of its own."""
        return tuple(limit for name, limit in self.own if name == rule.name)


def limits(router: Router, plans: Sequence[Plan]) -> tuple[Limits, list[Finding]]:
    """Refused: it cannot be counted."""
    spanning = [one for one in router.budgets if one.scope is not Scope.RULE]
    rules = {one.name for one in router.rules}
    own = [one for one in router.budgets if one.scope is Scope.RULE and one.rule in rules]
    findings = [finding for one in router.budgets for finding in _rounding(one)]
    if not spanning:
        return Limits(own=tuple((one.rule, _limit(one, [])) for one in own)), findings
    shared = [limit for one in spanning for limit in _spanning(one, router)]
    shared += [_limit(one, _selecting(one, router)) for one in own]
    joined = reduce(Traffic.joined, (one.traffic for one in plans))
    timeouts = {one.traffic.timeout for one in plans}
    if len(timeouts) > 1:
        findings.append(
            warning(
                "OneTimeoutForAll",
                spanning[0].origin,
                f"a budget counts all rules together, so they share one policy: each attempt of any rule gets"
                f" the longest timeout, {joined.timeout:g} s",
                "set one timeout for all rules, or make budgets of the rules",
            )
        )
    return Limits(tuple(shared), joined), findings


def _spanning(budget: Budget, router: Router) -> Iterator[Object]:
    if budget.scope is Scope.ROUTER:
        yield _limit(budget, [])
        return
    header = budget.header or (router.access.jwt.team_header if router.access else "")
    if not header:
        raise Refused(
            "InvalidBudget",
            budget.origin,
            f"budget {budget.name} is of a team, and no header names the team",
            "name the header, or configure JWT authentication, whose claim names the team",
        )
    yield _limit(budget, [{"name": header, "type": "Distinct"}])
    # without the header a limit for each of its values is none at all: those without a team are one
    yield _limit(budget, [{"name": header, "type": "RegularExpression", "value": ".+", "invert": True}])


def _limit(budget: Budget, selecting: list[Object]) -> Object:
    unit, requests = rate(budget)
    found: Object = {"clientSelectors": [{"headers": selecting}]} if selecting else {}
    return {
        **found,
        "shared": True,
        "limit": {"requests": requests, "unit": unit},
        "cost": {
            "request": {"from": "Number", "number": 0},
            "response": {
                "from": "Metadata",
                "metadata": {"namespace": "io.envoy.ai_gateway", "key": "llm_total_token"},
            },
        },
    }


def rate(budget: Budget) -> tuple[str, int]:
    """Unit and tokens in it. The window's own unit, or the largest within it in which the number can be said.

    Refused: it cannot in any.
    """
    exact = [one for one in _UNITS if one[1] == budget.seconds]
    within = [one for one in _COMMON if one[1] <= budget.seconds]
    for unit, length in (*exact, *within, *reversed(_UNITS)):
        tokens = budget.tokens * length // budget.seconds
        if 1 <= tokens <= MOST:
            return unit, tokens
    raise Refused(
        "InvalidBudget",
        budget.origin,
        f"budget {budget.name}: {budget.tokens} tokens in {budget.seconds} s; limits are of 1 to {MOST}"
        " tokens"
        " in a second, minute, hour, day, month or year",
        "choose another number of tokens; one as large as that limits nothing",
    )


def _rounding(budget: Budget) -> Iterator[Finding]:
    unit, tokens = rate(budget)
    if budget.seconds not in {length for name, length in _UNITS if name == unit}:
        yield info(
            "BudgetWindowChanged",
            budget.origin,
            f"budget {budget.name}: the gateway counts by the {unit.lower()}, so {budget.tokens} tokens in"
            f" {budget.seconds} s become {tokens} in a {unit.lower()}",
            "choose a window of a second, minute, hour, day, month of 30 days or year of 365 days",
        )


def _selecting(budget: Budget, router: Router) -> list[Object]:
    """The headers of the rule's requests. Refused: an earlier rule takes some of them."""
    number = next(at for at, one in enumerate(router.rules) if one.name == budget.rule)
    rule = router.rules[number]
    wanted = order.alternatives(rule, MODEL)
    for earlier in router.rules[:number]:
        if not earlier.backends:
            continue  # refused, which costs no tokens
        taken = order.alternatives(earlier, MODEL)
        if any(met for one in taken for other in wanted for met in order.both(one, other)):
            raise Refused(
                "UnsupportedBudgetScope",
                budget.origin,
                f"budget {budget.name} of rule {rule.name} stands beside one of router or team, and so can"
                " only"
                f" tell its requests by their headers, which those of rule {earlier.name} have too",
                "leave out one of the two, or move the rule to a router of its own",
            )
    found = [_any_of(MODEL, map(of_model, rule.models))] if rule.models else []
    for condition in rule.conditions:
        values = [of_value(value, ignore_case=condition.ignore_case) for value in condition.values]
        found.append(_any_of(condition.header, values))
    if any(len(one["value"]) > _LONGEST_VALUE for one in found):
        raise Refused(
            "UnsupportedBudgetScope",
            budget.origin,
            f"budget {budget.name}: the models and values of rule {rule.name} are more than"
            f" {_LONGEST_VALUE} characters together",
            "give the rule fewer models, or leave out the budgets of router and team",
        )
    return found


def _any_of(header: str, matchers: Iterable[Matcher]) -> Object:
    bare = "|".join(one.regex[1:-1] for one in matchers)
    return {"name": header, "type": "RegularExpression", "value": f"^({bare})$"}


def told(router: Router, documents: Documents) -> Iterator[Finding]:
    """Whether anybody counts."""
    if not router.budgets:
        return
    configured = [
        one for one in documents.of("ConfigMap") if "envoy-gateway.yaml" in (one.content.get("data") or {})
    ]
    texts = [str(one.content["data"]["envoy-gateway.yaml"]) for one in configured]
    origin = router.budgets[0].origin
    remedy = (
        "set rateLimit.backend with a Redis address in Envoy Gateway's configuration (ConfigMap"
        " envoy-gateway-config)"
    )
    if texts and not any(_RATE_LIMIT.search(text) for text in texts):
        yield warning(
            "NoRateLimitService",
            origin,
            "Envoy Gateway has no rate-limit service: budgets are not enforced",
            remedy,
        )
    elif not texts:
        yield info(
            "NeedsRateLimitService",
            origin,
            "budgets are enforced by Envoy Gateway's rate-limit service; the CRDs of 1.8.0 and 1.8.1 refuse"
            " a BackendTrafficPolicy that has any, with its timeouts and retries",
            f"install Envoy Gateway 1.8.2 or later, its CRDs, too; {remedy}",
        )
