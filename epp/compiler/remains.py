"""What is left of a router when one of its parts has an error, as a model of a fleet may.

Place:   used by compile.py, between two turns.
Rule:    the names of the part stay its own: requests for them are refused, since another rule, a pattern or
         the default, would take them to servers that they are not meant for. Where the gateway cannot even
         refuse them, they go where no other rule has them, else the whole router is in error.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from epp.compiler.findings import Finding, error, info
from epp.compiler.intent import Intent, Router, Rule, is_glob
from epp.compiler.patterns import matches

_REST = "whatever else is sensitive"


def spread(failed: frozenset[str], routers: Iterable[Router]) -> frozenset[str]:
    """With the rules' parts that go where a part with an error leads, as models do to backends of a fleet."""
    rules = (rule for router in routers for rule in router.rules)
    return failed | {
        rule.origin.object
        for rule in rules
        if any(one.origin.part and one.origin.object in failed for one in rule.backends)
    }


def left(router: Router, failed: frozenset[str], given_up: frozenset[str]) -> Router:
    """The router with refusals in the place of parts that have an error of their own, also where nothing else
    is left to serve. ``given_up``: parts that the gateway cannot refuse.
    """
    if not any(one.origin.object in failed for one in router.rules):
        return router
    rules = [
        replace(one, backends=()) if one.origin.object in failed else one
        for one in router.rules
        if one.origin.object not in failed
        or ((one.models or one.is_guarded) and one.origin.object not in given_up)
    ]
    serving = {one.name for one in rules if one.backends}
    budgets = tuple(one for one in router.budgets if not one.rule or one.rule in serving)
    return replace(router, rules=tuple(rules), budgets=budgets)


def faulty(declared: Iterable[Router], left_over: Iterable[Router]) -> list[Router]:
    """Those that are not served whole: all of their names stay theirs (claims.py)."""
    whole = {id(one) for one in left_over}
    return [one for one in declared if id(one) not in whole]


def refused(intent: Intent, failed: frozenset[str]) -> frozenset[str]:
    """Parts with an error that have a refusal, as ``Origin.object``."""
    return frozenset(rule.origin.object for rule in _refusals(intent, failed))


def exposed(router: Router, given_up: frozenset[str]) -> Iterator[Finding]:
    """Of parts that the gateway cannot refuse: those that another rule would serve then."""
    for place, rule in enumerate(router.rules):
        if rule.origin.object not in given_up:
            continue
        taker = next((one for one in router.rules[place + 1 :] if one.backends and _meets(one, rule)), None)
        if taker is not None:
            yield error(
                "NotRefused",
                router.origin,
                f"requests for {_names([rule])}, which has an error, would go to rule {taker.name}: this"
                " gateway cannot refuse them",
                f"mend {rule.origin.field or rule.origin.object}",
            )


def notes(intent: Intent, failed: frozenset[str]) -> list[Finding]:
    """What becomes of requests for parts with an error."""
    rules: dict[str, list[Rule]] = {}
    for rule in _refusals(intent, failed):
        rules.setdefault(rule.origin.object, []).append(rule)
    return [
        info(
            "RefusedForNow",
            several[0].origin,
            f"requests for {_names(several)} get 503 until it is mended, or what was applied of it before:"
            " nothing else takes them",
        )
        for several in rules.values()
    ]


def _refusals(intent: Intent, failed: frozenset[str]) -> Iterator[Rule]:
    rules = (rule for router in intent.routers for rule in router.rules)
    return (rule for rule in rules if rule.origin.object in failed)


def _meets(one: Rule, other: Rule) -> bool:
    """Whether a request may be both's. Of two patterns nobody knows."""
    if not one.models or not other.models:
        return True
    pairs = ((mine, its) for mine in one.models for its in other.models)
    return any(
        mine == its or (is_glob(mine) and (is_glob(its) or matches(mine, its))) or matches(its, mine)
        for mine, its in pairs
    )


def _names(rules: Sequence[Rule]) -> str:
    return ", ".join(dict.fromkeys(name for rule in rules for name in rule.models or [_REST]))
