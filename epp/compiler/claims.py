"""Routers that name one model at one gateway: the oldest has it, the others are told.

Place:   between inputs/ and targets/.
Rule:    a name belongs to whoever named it first where the same requests come in, whatever else the rules ask
         for: with more headers a younger rule would be tried first. Where that takes a guard away, or mixes
         who may ask, the younger gets nothing new; nor where the older has an error: its routes of before
         stand, or the younger's do, and whichever it is stays as it is. What such a one was to guard,
         guards.py sees to; what else overlaps depends on how a gateway sorts (overlaps.py).
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from epp.compiler import guards
from epp.compiler.findings import Finding, error, warning
from epp.compiler.intent import Router, Rule
from epp.compiler.overlaps import said, same_requests
from epp.compiler.patterns import literal

_Place: TypeAlias = tuple[str, str, str]
"""Namespace and name of a gateway, and a model."""


def settle(
    routers: Iterable[Router], faulty: Collection[Router] = ()
) -> tuple[tuple[Router, ...], tuple[Finding, ...]]:
    """The routers, the oldest first, each without the names that an older one has.

    ``faulty``: those of which something, or all, has an error: they have their names, and are not returned.
    """
    owners: dict[_Place, list[_Owner]] = {}
    kept, findings = list[Router](), list[Finding]()
    all_of_them = [*((one, True) for one in routers), *((one, False) for one in faulty)]
    for router, is_live in sorted(all_of_them, key=lambda each: (each[0].origin.age, each[0].origin.kind)):
        taken = _taken(router, owners, is_live=is_live)
        if not is_live:
            continue
        for rule in router.rules if taken else ():
            findings += _told(rule, router, taken)
        left = _without(router, taken)
        if left.rules:
            kept.append(left)
    findings += guards.kept(kept, faulty)
    return tuple(kept), tuple(findings)


@dataclass(slots=True)
class _Owner:
    """A router that has a name. ``is_live``: without an error. ``is_guarded``: some of the requests for it
    must go nowhere else.
    """

    router: Router
    model: str
    is_live: bool
    is_guarded: bool = field(init=False)

    def __post_init__(self) -> None:
        rules = (rule for rule in self.router.rules if rule.is_guarded)
        self.is_guarded = any(None in (names := _names(rule)) or self.model in names for rule in rules)


def _names(rule: Rule) -> set[str | None]:
    """Of its models; None: it is for others, too, as those of a glob are."""
    return {literal(one) for one in rule.models} or {None}


def _taken(router: Router, owners: dict[_Place, list[_Owner]], *, is_live: bool) -> dict[str, list[_Owner]]:
    """Its names that older routers have; the others are its own from now on."""
    taken: dict[str, list[_Owner]] = {}
    for name in dict.fromkeys(one for rule in router.rules for one in map(literal, rule.models)):
        if name is None:
            continue
        there = owners.setdefault((router.gateway.namespace, router.gateway.name, name), [])
        older = [
            one
            for one in there
            if one.router.origin.object != router.origin.object and same_requests(one.router, router)
        ]
        if older:
            taken[name] = older
        else:
            there.append(_Owner(router, name, is_live))
    return taken


def _without(router: Router, taken: dict[str, list[_Owner]]) -> Router:
    if not taken:
        return router
    rules = []
    for rule in router.rules:
        models = tuple(one for one in rule.models if literal(one) not in taken)
        if models or not rule.models:
            rules.append(rule if models == rule.models else replace(rule, models=models))
    left = {"", *(one.name for one in rules)}
    budgets = tuple(one for one in router.budgets if one.rule in left)
    return replace(router, rules=tuple(rules), budgets=budgets)


def _told(rule: Rule, router: Router, taken: dict[str, list[_Owner]]) -> Iterator[Finding]:
    for name in dict.fromkeys(map(literal, rule.models)):
        if name is None or name not in taken:
            continue
        owners = taken[name]
        # of one with an error nobody knows whom it lets in
        other = next((one for one in owners if one.is_live and said(one.router) != said(router)), None)
        if other is not None:
            yield _mixed(name, rule, other.router)
            continue
        owner = next((one for one in owners if one.is_guarded), owners[0])
        fix = f"give it another name here, or remove it from {owner.router.origin.object}"
        message = f"model {name} is that of {owner.router.origin.object}, which is older"
        if not owner.is_live:
            why = f"{message} and has an error: what was made of either stays as it is until that is mended"
            yield error("ModelNameTaken", rule.origin, why, f"mend {owner.router.origin.object}, or {fix}")
        elif owner.is_guarded:
            why = f"{message} and keeps sensitive requests for it: no other rule may take them"
            yield error("ModelNameTaken", rule.origin, why, fix)
        elif rule.is_guarded:
            why = f"{message}: this rule would never see it, and the sensitive requests that it is to keep"
            yield error("ModelNameTaken", rule.origin, f"{why} would go where the other's go", fix)
        else:
            yield warning("ModelNameTaken", rule.origin, f"{message}: this rule never sees it", fix)


def _mixed(name: str, rule: Rule, owner: Router) -> Finding:
    return error(
        "AccessNotSeparable",
        rule.origin,
        f"model {name} is that of {owner.origin.object}, which is older and lets others ask for it: a gateway"
        " knows requests by their model",
        f"give it another name here, or the same authentication as {owner.origin.object}; or give one of the"
        " two a listener of its own",
    )
