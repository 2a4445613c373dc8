"""A fleet's models as rules.

Place:   after choices.py; what it makes is the intent's Router.
Rule:    names before patterns, patterns in the file's order, the default last. Requests of a sensitive class
         meet a rule of their own wherever the model's rule could lead out of the house. Names of a model with
         an error are refused: no pattern and no default may have them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from epp.compiler.inputs.fleet.choices import Choices, Resolver
from epp.compiler.inputs.fleet.file import ANY_NAME, MODEL
from epp.compiler.inputs.fleet.site import Lost, Model, Site
from epp.compiler.intent import Backend, Condition, Pool, Rule, Strategy, is_glob
from epp.compiler.names import name_of


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and where."""

    model: Model
    choices: Choices

    @property
    def exact(self) -> tuple[str, ...]:
        """Its names that are no patterns."""
        return _exact(self.model.names)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its names that are."""
        return _patterns(self.model.names)

    @property
    def rule_name(self) -> str:
        """Of the rule for its exact names; else that for its patterns."""
        return name_of(self.model.entry.name)

    @property
    def at_home(self) -> tuple[Backend, ...]:
        """Its backends in the house."""
        local = tuple(one for one in self.choices.backends if one.local)
        return local if any(one.weight for one in local) else ()


def rules(site: Site) -> tuple[Rule, ...]:
    """Of all models that can be served; of the others it is told why not."""
    resolver = Resolver(site)
    served = [
        Served(model, choices) for model in site.entries if (choices := resolver.choices(model)) is not None
    ]
    guards = _Guards(site, served)
    together = _counted_together(site)
    lost = _lost(site, served)
    made = [*guards.of_names()]
    for one in served:
        made += _name_rules(one, together=one.model.entry.name in together)
    for faulty in lost:
        made += _in_error(faulty, _exact(faulty.names), site)
    of_patterns = [(faulty.place, _in_error(faulty, _patterns(faulty.names), site)) for faulty in lost]
    of_patterns += [
        (one.model.place, [*guards.of(one, one.patterns, "patterns"), _pattern_rule(one)])
        for one in served
        if one.patterns
    ]
    for _, several in sorted(of_patterns, key=lambda each: each[0]):
        made += several
    made += [*_default(site, served, guards), *guards.of_default(lost)]
    of_every_name = _of_every_name(site)
    return tuple(_without_names(rule, of_every_name) for rule in made)


def _of_every_name(site: Site) -> set[tuple[str, str]]:
    """Backends that are a model's own and know it by every name; and by which another model asks them."""
    own = ((one.own, one.entry.name) for one in site.entries if one.own is not None)
    return {(backend.name, name) for backend, name in own if backend.model == ANY_NAME}


def _without_names(rule: Rule, of_every_name: Collection[tuple[str, str]]) -> Rule:
    """As the client asked, if one model's servers know every name: so a picker can choose among them. Servers
    of different models keep their names, else it would take them for servers of one."""
    if len(rule.backends) != 1 or (rule.backends[0].name, rule.backends[0].model) not in of_every_name:
        return rule
    return replace(rule, backends=(replace(rule.backends[0], model=""),))


def _exact(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not is_glob(name))


def _patterns(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if is_glob(name))


def _lost(site: Site, served: Sequence[Served]) -> list[Lost]:
    """Models with an error, and those that lead to one, with the names that no other model has."""
    usable = {one.model.place for one in served}
    unusable = [Lost(one.names, one.origin, one.place) for one in site.entries if one.place not in usable]
    taken = {name for one in served for name in one.model.names}
    found = []
    for one in sorted((*site.lost, *unusable), key=lambda each: each.place):
        own = [name for name in dict.fromkeys(one.names) if name not in taken and re.fullmatch(MODEL, name)]
        taken.update(own)
        found.append(replace(one, names=tuple(own)))
    return found


def _in_error(one: Lost, names: tuple[str, ...], site: Site) -> list[Rule]:
    """What refuses them, so that no pattern and no default serves them."""
    if not names:
        return []
    is_sensitive = site.file.sensitive is not None
    return [Rule(name_of(names[0], "in", "error"), (), one.origin, models=names, sensitive=is_sensitive)]


def _counted_together(site: Site) -> set[str]:
    """Models with a budget: it is of a rule, so they have one rule for all their names."""
    wanted = (one.model for one in site.file.budgets)
    return {site.models[name].entry.name for name in wanted if name in site.models}


def _name_rules(one: Served, *, together: bool) -> Iterator[Rule]:
    """Names that servers of a pool know apart from those that have to be changed: some gateways cannot ask a
    picker where they change the name."""
    if not one.exact:
        return
    backends = one.choices.backends
    known = tuple(name for name in one.exact if all(_is_known(backend, name) for backend in backends))
    others = tuple(name for name in one.exact if name not in known)
    if together or not known or not others or not any(isinstance(b.servers, Pool) for b in backends):
        yield _rule(one, one.exact)
        return
    yield _rule(one, known)
    yield replace(_rule(one, others), name=name_of(one.model.entry.name, "aliases"))


def _pattern_rule(one: Served) -> Rule:
    found = _rule(one, one.patterns)
    return replace(found, name=name_of(one.model.entry.name, "patterns")) if one.exact else found


def _rule(one: Served, models: tuple[str, ...]) -> Rule:
    entry = one.model.entry
    backends = tuple(_as_called(backend, models) for backend in one.choices.backends)
    return Rule(
        one.rule_name,
        backends,
        one.model.origin.at(f"models[{entry.name}]"),
        models=models,
        strategy=one.choices.strategy,
        timeout=_timeout(one),
        owner=entry.owner,
    )


def _as_called(backend: Backend, models: Sequence[str]) -> Backend:
    """Without a name of its own for what clients call just so."""
    if backend.model == ANY_NAME or (models and all(_is_known(backend, name) for name in models)):
        return replace(backend, model="")
    return backend


def _is_known(backend: Backend, name: str) -> bool:
    """Whether a server there knows a model as clients call it."""
    return backend.model in {"", ANY_NAME, name}


def _timeout(one: Served) -> float | None:
    """The model's own, or that of all its backends; None: each has another."""
    if one.model.entry.timeout is not None:
        return one.model.entry.timeout
    several = {backend.timeout for backend in one.choices.backends}
    return several.pop() if len(several) == 1 else None


def _default(site: Site, served: Iterable[Served], guards: "_Guards") -> Iterator[Rule]:
    wanted = site.file.default_model
    if not wanted:
        return
    for one in served:
        if wanted in one.exact:
            yield from guards.of(one, (), "others")
            yield replace(_rule(one, ()), name=name_of("default", wanted), is_default=True)
            return
    if wanted not in site.broken and wanted not in site.models:
        fix = site.unknown_model(wanted)
        site.error("BackendsUnresolved", site.origin.at("defaultModel"), f'there is no model "{wanted}"', fix)


class _Guards:
    """Rules for requests of a sensitive class, for models that could be served outside."""

    def __init__(self, site: Site, served: Sequence[Served]) -> None:
        self._site = site
        self._served = served
        self._sensitive = site.file.sensitive
        self._allowed = self._check() if self._sensitive else set()

    def _check(self) -> set[str]:
        """Names of the models that may serve such requests."""
        assert self._sensitive is not None
        wanted, site = self._sensitive.models or (), self._site
        for name in wanted:
            where = site.origin.at("sensitive.models")
            one = next((each for each in self._served if name in each.model.names), None)
            if one is not None and not one.at_home:
                site.error(
                    "UnsafeSensitiveRoute",
                    where,
                    f'"{name}" has no backend in the house',
                    'take it out, or write "local: true" at a backend that is',
                )
            elif one is None and name not in site.broken and name not in site.models:
                fix = site.unknown_model(name)
                site.error("BackendsUnresolved", where, f'there is no model "{name}"', fix)
        allowed = (one for one in self._served if not wanted or set(wanted) & set(one.model.names))
        return {one.model.entry.name for one in allowed}

    def of_names(self) -> Iterator[Rule]:
        """For exact names. Those that nobody in the house serves have one rule together, which refuses."""
        refused: list[str] = []
        for one in self._served:
            if one.exact and self._is_needed(one):
                if self._home(one):
                    yield self._rule(one, one.exact, "sensitive")
                else:
                    refused += one.exact
        if refused:
            yield self._refusal(tuple(refused), name_of("sensitive", "refused"))

    def of(self, one: Served, models: tuple[str, ...], which: str) -> Iterator[Rule]:
        """For patterns, or for whatever nothing else wanted."""
        if not self._is_needed(one):
            return
        if self._home(one):
            yield self._rule(one, models, f"sensitive-{which}")
        else:
            name = name_of(one.model.entry.name, "sensitive", which, "refused")
            yield self._refusal(models, name)

    def of_default(self, lost: Iterable[Lost]) -> Iterator[Rule]:
        """What refuses them while the default has an error: somebody else's default would have them."""
        wanted = self._site.file.default_model
        for one in lost if wanted and self._sensitive is not None else ():
            if wanted in one.names:
                refusal = self._refusal((), name_of("default", "in", "error"))
                yield replace(refusal, origin=one.origin)

    def _is_needed(self, one: Served) -> bool:
        if self._sensitive is None:
            return False
        return self._home(one) != one.choices.backends

    def _home(self, one: Served) -> tuple[Backend, ...]:
        return one.at_home if one.model.entry.name in self._allowed else ()

    def _rule(self, one: Served, models: tuple[str, ...], which: str) -> Rule:
        usual = _rule(one, models)
        home = tuple(_as_called(backend, models) for backend in self._home(one))
        strategy = usual.strategy if len(home) > 1 else Strategy.FALLBACK
        return replace(
            usual,
            name=name_of(one.model.entry.name, which),
            backends=home,
            strategy=strategy,
            conditions=self._conditions(),
            fail_closed=True,
            sensitive=True,
        )

    def _refusal(self, models: tuple[str, ...], name: str) -> Rule:
        return Rule(
            name,
            (),
            self._site.origin.at("sensitive"),
            models=models,
            conditions=self._conditions(),
            fail_closed=True,
            sensitive=True,
            timeout=self._site.file.timeout,
        )

    def _conditions(self) -> tuple[Condition, ...]:
        assert self._sensitive is not None
        return (Condition(self._sensitive.header.lower(), self._sensitive.classes, ignore_case=True),)
