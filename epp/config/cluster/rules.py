"""InferenceObjectives and InferenceModelRewrites to what they mean for requests.

Place:   called by epp.runtime.kubernetes with the objects as they are now; what comes out goes to
         epp.core.directives.
Ignores: how objects are followed.
Rule:    where the group llm-d.ai is there only its objects count, as upstream; those about other pools
         never do. What cannot be carried out is a finding; the object counts as it was when it last could.
Source:  upstream's reconcilers and its rewrite store: a rule about a model before one about any, the older
         object first, then the earlier rule.
"""

from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from epp.config.cluster.groups import NEW_GROUP, OLD_POOL_GROUP, POOL_GROUP
from epp.config.cluster.objects import (
    Members,
    Meta,
    Objective,
    PoolRef,
    Rewrite,
    RewriteRule,
)
from epp.core.directives import Rule

SHOWN = 5
"""Names in one finding."""
T = TypeVar("T", Objective, Rewrite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of the requests of one pool, as objects. ``None``: nothing was told of that group."""

    objectives: Collection[Objective] | None = None
    old_objectives: Collection[Objective] | None = None
    rewrites: Collection[Rewrite] | None = None
    old_rewrites: Collection[Rewrite] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The same, ready to be carried out."""

    priorities: Mapping[str, int] = field(default_factory=dict)
    by_model: Mapping[str, Rule] = field(default_factory=dict)
    any_model: Rule | None = None
    findings: tuple[str, ...] = ()
    good: Mapping[str, Rewrite] = field(default_factory=dict)
    """By name, the rewrites that these rules are made of: what counts when one of them becomes unusable."""


NO_RULES = Rules()


def rules(
    asked: Asked,
    pool: Members,
    *,
    group: str = POOL_GROUP,
    neighbours: Collection[str] | None = None,
    before: Mapping[str, Rewrite] | None = None,
) -> Rules:
    """What ``asked`` means for ``pool``, of ``group``.

    ``neighbours``: the pools of its namespace; None: not known. ``before``: ``good`` of the last time.
    """
    work = _Work(pool.name, group, neighbours)
    objectives = work.of_one_group("InferenceObjective", asked.objectives, asked.old_objectives)
    rewrites = work.of_one_group("InferenceModelRewrite", asked.rewrites, asked.old_rewrites)
    table = _Table()
    for rewrite in sorted(rewrites, key=lambda one: (_age(one.metadata), one.metadata.name)):
        work.take(table, rewrite, (before or {}).get(rewrite.metadata.name))
    return Rules(
        priorities={one.metadata.name: one.spec.priority or 0 for one in objectives},
        by_model=table.by_model,
        any_model=table.any_model,
        findings=tuple(work.findings),
        good=table.good,
    )


class _Work:
    def __init__(self, pool: str, group: str, neighbours: Collection[str] | None) -> None:
        self.findings: list[str] = []
        self._pool = pool
        self._group = group
        self._neighbours = neighbours

    # --- which objects

    def of_one_group(self, kind: str, new: Collection[T] | None, old: Collection[T] | None) -> list[T]:
        if new is None:
            return self._own(kind, old or ())
        passed_over = [one.metadata.name for one in old or () if self._is_own(one.spec.pool_ref)]
        if passed_over:
            self.findings.append(
                f"{kind} {_listed(passed_over)} of {OLD_POOL_GROUP}: passed over, since there are those of"
                f" {NEW_GROUP}: create them there"
            )
        return self._own(kind, new)

    def _own(self, kind: str, objects: Iterable[T]) -> list[T]:
        """Those about this pool; what is about no pool at all is told."""
        own = []
        for one in sorted(objects, key=lambda one: one.metadata.name):
            if one.metadata.deletion_timestamp is not None:
                continue
            ref = one.spec.pool_ref
            if self._is_own(ref):
                own.append(one)
                continue
            where = f"{kind} {one.metadata.name}"
            if ref.name == self._pool:
                self.findings.append(
                    f"{where}: poolRef is about {ref.kind} {ref.name} of {ref.group or 'no group'}, not about"
                    f" the InferencePool {ref.name} of {self._group}: correct poolRef"
                )
            elif self._is_nobodys(ref):
                self.findings.append(
                    f"{where}: there is no InferencePool {ref.name}: create it or correct poolRef"
                )
        return own

    def _is_own(self, ref: PoolRef) -> bool:
        return (ref.name, ref.group, ref.kind) == (self._pool, self._group, "InferencePool")

    def _is_nobodys(self, ref: PoolRef) -> bool:
        """Pools of the other group are not known here."""
        known = self._neighbours
        return known is not None and ref.group == self._group and ref.name not in known

    # --- what a rewrite says

    def take(self, table: "_Table", rewrite: Rewrite, before: Rewrite | None) -> None:
        """Enter its rules; those it had before, where it cannot be carried out as it is."""
        where = f"InferenceModelRewrite {rewrite.metadata.name}"
        fault = _fault(rewrite) or table.loop(rewrite)
        if fault is None:
            table.enter(rewrite)
            self.findings += [f"{where}: {remark}" for remark in _remarks(rewrite)]
            return
        kept = before is not None and _fault(before) is None and table.loop(before) is None
        stays = "what it said before stays" if kept else "it is left out"
        self.findings.append(f"{where}: {fault}; {stays}")
        if kept and before is not None:
            table.enter(before)


class _Table:
    """Rules as they are looked up; the first that is entered for a model counts."""

    def __init__(self) -> None:
        self.by_model: dict[str, Rule] = {}
        self.any_model: Rule | None = None
        self.good: dict[str, Rewrite] = {}

    def enter(self, rewrite: Rewrite) -> None:
        self.good[rewrite.metadata.name] = rewrite
        for rule in rewrite.spec.rules:
            made = _rule(rewrite.metadata.name, rule)
            for model in _models(rule):
                self.by_model.setdefault(model, made)
            if not rule.matches and self.any_model is None:
                self.any_model = made

    def loop(self, rewrite: Rewrite) -> str | None:
        """The way back to where it began that these rules would open; None: there is none.

        A model may keep a share of its own requests: that is no loop.
        """
        own: dict[str, Rule] = {}
        for rule in rewrite.spec.rules:
            made = _rule("", rule)
            for model in _models(rule):
                if model not in self.by_model:
                    own.setdefault(model, made)
        for model in sorted(own):
            way = _way_back(model, ChainMap(own, self.by_model))
            if way:
                return f"its rules are a loop: {' to '.join(way)}: take one of them out"
        return None


def _way_back(start: str, rules: Mapping[str, Rule]) -> list[str]:
    """From a model over others to itself; empty: it does not come back."""
    came_from: dict[str, str] = {}
    ahead = [start]
    while ahead:
        here = ahead.pop(0)
        for there in rules[here].models if here in rules else ():
            if there == here or there in came_from:
                continue
            came_from[there] = here
            if there == start:
                way = [start]
                while way[-1] != start or len(way) == 1:
                    way.append(came_from[way[-1]])
                return way[::-1]
            ahead.append(there)
    return []


def _fault(rewrite: Rewrite) -> str | None:
    """Why it cannot be carried out; None: it can."""
    for place, rule in enumerate(rewrite.spec.rules):
        targets = rule.targets or ()
        if not targets:
            return f"rules[{place}] has no targets: name the model to ask for in modelRewrite"
        for number, target in enumerate(targets):
            at = f"rules[{place}].targets[{number}]"
            if not target.model_rewrite:
                return f"{at}.modelRewrite is empty: name the model to ask for"
            if target.weight is not None and target.weight <= 0:
                return f"{at}.weight must be at least 1, got {target.weight}: take the target out"
        for match in rule.matches or ():
            if match.model is None or match.model.type != "Exact":
                return f"rules[{place}].matches: only model with type Exact is there"
    return None


def _remarks(rewrite: Rewrite) -> Iterator[str]:
    for place, rule in enumerate(rewrite.spec.rules):
        weighted = [target.weight is not None for target in rule.targets or ()]
        if any(weighted) and not all(weighted):
            yield (
                f"rules[{place}]: targets without a weight get nothing, since others have one: give each one"
            )


def _rule(origin: str, rule: RewriteRule) -> Rule:
    """As upstream draws: equal shares where nobody has a weight, none for whoever lacks one."""
    targets = rule.targets or ()
    is_weighted = any(target.weight is not None for target in targets)
    shares = [(target.model_rewrite, (target.weight or 0) if is_weighted else 1) for target in targets]
    shares = [(model, weight) for model, weight in shares if weight]
    return Rule(origin, [model for model, _ in shares], [weight for _, weight in shares])


def _models(rule: RewriteRule) -> list[str]:
    return [match.model.value for match in rule.matches or () if match.model is not None]


def _age(meta: Meta) -> str:
    return meta.creation_timestamp or ""


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{', '.join(ordered[:SHOWN])}{more}"
