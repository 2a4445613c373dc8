"""Sensitive requests of a router of which nothing can be made: nobody else gets them meanwhile.

Place:   used by claims.py, once it is settled who has which name.
Rule:    a rule of a younger router that would take them has an error as well: nothing new is made of it, and
         what stands of either stays. An older router may have had them before, so it is only named. To be
         refused is safe.
"""

from collections.abc import Iterable, Iterator, Sequence

from epp.compiler.findings import Finding, error, warning
from epp.compiler.intent import Condition, Router, Rule, is_glob
from epp.compiler.overlaps import same_requests
from epp.compiler.patterns import literal, matches

_CODE = "RequestsOfAnother"


def kept(live: Sequence[Router], faulty: Iterable[Router]) -> Iterator[Finding]:
    """``faulty``: routers with an error. Those that are among the ``live`` guard themselves."""
    served = {one.origin.whole for one in live}
    near = _Near(live)
    for broken in faulty:
        guards = [rule for rule in broken.rules if rule.is_guarded]
        for other in near.to(guards) if guards and broken.origin.whole not in served else ():
            if _is_beside(other, broken):
                yield from _told(other, broken, guards)


class _Near:
    """Routers by the models that they name: most have nothing to do with each other."""

    def __init__(self, routers: Sequence[Router]) -> None:
        self._routers = routers
        self._wide: set[int] = set()
        self._named: dict[str, set[int]] = {}
        for place, one in enumerate(routers):
            for name in _names(one.rules):
                there = self._wide if name is None else self._named.setdefault(name, set())
                there.add(place)

    def to(self, guards: Sequence[Rule]) -> Sequence[Router]:
        """Those of which a rule may be for a model of ``guards``, in their order."""
        names = _names(guards)
        if None in names:
            return self._routers
        places = self._wide.union(*(self._named.get(name, ()) for name in names if name is not None))
        return [self._routers[place] for place in sorted(places)]


def _names(rules: Iterable[Rule]) -> set[str | None]:
    """None: others, too, as those of a pattern are."""
    return {literal(model) if model else None for rule in rules for model in rule.models or ("",)}


def _is_beside(one: Router, other: Router) -> bool:
    gateways = {(each.gateway.namespace, each.gateway.name) for each in (one, other)}
    return len(gateways) == 1 and same_requests(one, other)


def _told(other: Router, broken: Router, guards: Sequence[Rule]) -> Iterator[Finding]:
    """Of the younger an error for each rule; nothing can be made of the broken one anyhow."""
    is_younger = (other.origin.age, other.origin.kind) > (broken.origin.age, broken.origin.kind)
    takers: dict[str, tuple[Rule, str]] = {}
    for guard in guards:
        for model in guard.models or ("",):
            taker = _taker(other.rules, model, guard)
            if taker is not None:
                takers.setdefault(taker.name, (taker, model or "any model"))
    for taker, model in takers.values():
        message = (
            f"{broken.origin.object} has an error, and is to keep sensitive requests for {model}: until that"
            f" is mended rule {taker.name} of {other.origin.object} would take them"
        )
        fix = f"mend {broken.origin.object}"
        if is_younger:
            fix += ", give each a hostname, or one of them a listener of its own"
            yield error(_CODE, taker.origin, message, fix)
        else:
            yield warning(_CODE, broken.origin, message, fix)


def _taker(rules: Sequence[Rule], model: str, guard: Rule) -> Rule | None:
    """The first that would serve some of the guard's requests for ``model``; empty: whatever the model."""
    refusals: list[Rule] = []
    for rule in rules:
        if not rule.backends:
            refusals.append(rule)
        elif _may_meet(rule, model, guard) and not any(
            _is_first(one, rule, model, guard) for one in refusals
        ):
            return rule
    return None


def _may_meet(rule: Rule, model: str, guard: Rule) -> bool:
    """What may be sensitive, and nobody can read it, costs no rule that names its models."""
    is_meant = guard.sensitive or not rule.models or any(is_glob(one) for one in rule.models)
    return is_meant and _may_name(rule, model) and not _are_apart(rule.conditions, guard.conditions)


def _may_name(rule: Rule, model: str) -> bool:
    """Of two patterns nobody knows."""
    if not rule.models or not model:
        return True
    name = literal(model)
    if name is not None:
        return any(matches(one, name) for one in rule.models)
    return any(literal(one) is None or matches(model, literal(one) or "") for one in rule.models)


def _is_first(refusal: Rule, rule: Rule, model: str, guard: Rule) -> bool:
    """Whether it has all that ``rule`` would serve of them."""
    name = literal(model) if model else None
    has_models = (
        not refusal.models
        or model in refusal.models
        or (name is not None and any(matches(one, name) for one in refusal.models))
        or (bool(rule.models) and set(rule.models) <= set(refusal.models))
    )
    said = (*guard.conditions, *rule.conditions)
    return has_models and all(any(_is_within(one, asked) for one in said) for asked in refusal.conditions)


def _is_within(one: Condition, asked: Condition) -> bool:
    """Whether what satisfies the one satisfies the other."""
    if one.header != asked.header or (one.ignore_case and not asked.ignore_case):
        return False
    return _values(one, asked) <= _values(asked, asked)


def _are_apart(some: Sequence[Condition], others: Sequence[Condition]) -> bool:
    pairs = ((one, other) for one in some for other in others if one.header == other.header)
    return any(
        {value.lower() for value in one.values}.isdisjoint(value.lower() for value in other.values)
        for one, other in pairs
    )


def _values(one: Condition, as_in: Condition) -> set[str]:
    return {value.lower() if as_in.ignore_case else value for value in one.values}
