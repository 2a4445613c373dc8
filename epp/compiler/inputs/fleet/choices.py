"""Where each model is served: references followed, models of models made flat.

Place:   between site.py, which knows the names, and rules.py.
Rule:    a model whose way leads to something that is not there, or back to itself, is not served, and says
         so; all others are.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from epp.compiler.http_routes import MOST_WEIGHT
from epp.compiler.inputs.fleet.file import ANY_NAME, ModelEntry
from epp.compiler.inputs.fleet.site import Model, Site
from epp.compiler.intent import Backend, Strategy, is_glob

LONGEST_WAY = 16
"""Models of models of models: nobody could follow more."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The backends of one model: in order, or by their shares."""

    backends: tuple[Backend, ...]
    strategy: Strategy = Strategy.FALLBACK

    @property
    def is_shared(self) -> bool:
        """Whether each gets its share."""
        return self.strategy is Strategy.WEIGHTED and len(self.backends) > 1


class _UnusableError(Exception):
    """``code``, ``message`` and ``fix`` of what is wrong."""


class Resolver:
    """Follows references, each model once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._found: dict[str, Choices | None] = {}
        self._on_the_way: list[str] = []

    def choices(self, model: Model) -> Choices | None:
        """None: it cannot be served, which has been told."""
        name = model.entry.name
        if name not in self._found:
            self._on_the_way.append(name)
            try:
                self._found[name] = self._choices(model)
            except* _UnusableError as faults:
                self._found[name] = None
                for fault in faults.exceptions:
                    code, field, message, fix = fault.args
                    where = model.origin.at(f"models[{name}]{field}")
                    self._site.error(code, where, message, fix)
            self._on_the_way.pop()
        return self._found[name]

    def _choices(self, model: Model) -> Choices:
        entry = model.entry
        if model.own is not None:
            return Choices((_called(model.own, entry.name),))
        parts: list[tuple[str, Choices]] = []
        faults: list[_UnusableError] = []
        for name in entry.names:
            try:
                parts.append((name, self._reference(model, name)))
            except _UnusableError as fault:
                faults.append(fault)
        if faults:
            raise ExceptionGroup("what it is served by", faults)
        if entry.shares:
            return _shared(parts, entry.shares)
        return _in_order(parts)

    def _reference(self, model: Model, name: str) -> Choices:
        site, own = self._site, model.names
        if name in site.models and name not in own:
            return self._model(site.models[name], name)
        if name in site.broken and name not in own:
            raise _unresolved(name, site.broken[name])
        base, _, there = name.partition("/")
        if base in site.backends:
            site.used.add(base)
            one = site.backends[base]
            return Choices((replace(one, model=there) if there else _called(one, model.entry.name),))
        if base in site.broken and base not in own:
            raise _unresolved(name, site.broken[base])
        if name in own:
            raise _UnusableError(
                "CyclicModels", ".backends", f'"{name}" is this model itself', site.unknown("")
            )
        raise _UnusableError(
            "BackendsUnresolved",
            ".backends",
            f'there is no backend and no model "{name}"',
            site.unknown(base),
        )

    def _model(self, other: Model, name: str) -> Choices:
        if len(self._on_the_way) > LONGEST_WAY:
            raise _UnusableError(
                "UnsupportedCombination",
                ".backends",
                f"leads over more than {LONGEST_WAY} models",
                "name backends here",
            )
        if other.entry.name in self._on_the_way:
            way = [*self._on_the_way[self._on_the_way.index(other.entry.name) :], other.entry.name]
            raise _UnusableError(
                "CyclicModels",
                ".backends",
                f"leads back to itself: {' -> '.join(way)}",
                "end one of them at a backend",
            )
        if is_glob(name):
            raise _UnusableError(
                "BackendsUnresolved",
                ".backends",
                f'"{name}" stands for many names',
                'name its backend, and the model there: "partner/qwen3-8b"',
            )
        found = self.choices(other)
        if found is None:
            raise _unresolved(name, f"models[{other.entry.name}]")
        return replace(found, backends=tuple(_as_part(one, other.entry) for one in found.backends))


def _as_part(backend: Backend, model: ModelEntry) -> Backend:
    """Of another model: asked by that one's name, which keeps it apart from the other parts. Where there are
    no others, rules.py lets servers that take every name be asked as the client asked."""
    name = model.name if backend.model == ANY_NAME else backend.model
    return replace(backend, model=name, timeout=model.timeout or backend.timeout)


def _called(backend: Backend, model: str) -> Backend:
    """For a model that is called so there, if the backend does not say itself; a pattern is nobody's name."""
    return replace(backend, model=backend.model or ("" if is_glob(model) else model))


def _unresolved(name: str, field: str) -> _UnusableError:
    return _UnusableError(
        "BackendsUnresolved", ".backends", f'uses "{name}", which has an error', f"mend {field}"
    )


def _in_order(parts: Iterable[tuple[str, Choices]]) -> Choices:
    parts = list(parts)
    if len(parts) == 1:
        return parts[0][1]
    kept: dict[tuple[str, str], Backend] = {}
    for name, choices in parts:
        if choices.is_shared:
            raise _UnusableError(
                "UnsupportedCombination",
                ".backends",
                f'"{name}" has shares, which cannot stand in an order with others',
                "name its backends here, or give shares to all",
            )
        for one in choices.backends:
            kept.setdefault((one.name, one.model), one)
    return Choices(tuple(replace(one, weight=1) for one in kept.values()))


def _shared(parts: Iterable[tuple[str, Choices]], shares: Mapping[str, int]) -> Choices:
    kept: dict[tuple[str, str], tuple[Backend, Fraction]] = {}
    for name, choices in parts:
        if len(choices.backends) > 1 and not choices.is_shared:
            raise _UnusableError(
                "UnsupportedCombination",
                ".backends",
                f'"{name}" has several backends in an order, which cannot have a share',
                "name one of its backends here",
            )
        total = sum(one.weight for one in choices.backends)
        for one in choices.backends:
            part = Fraction(shares[name]) * (Fraction(one.weight, total) if choices.is_shared else 1)
            _, before = kept.get((one.name, one.model), (one, Fraction()))
            kept[one.name, one.model] = one, before + part
    weights = _whole([part for _, part in kept.values()])
    return Choices(
        tuple(replace(one, weight=weight) for (one, _), weight in zip(kept.values(), weights, strict=True)),
        Strategy.WEIGHTED,
    )


def _whole(parts: list[Fraction]) -> list[int]:
    """The same shares as whole numbers that gateways take; one that has a share keeps at least 1."""
    scale = math.lcm(*(part.denominator for part in parts))
    whole = [int(part * scale) for part in parts]
    if max(whole) <= MOST_WEIGHT:
        return whole
    return [max(1, number * MOST_WEIGHT // max(whole)) if number else 0 for number in whole]
