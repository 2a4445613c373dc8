"""What a model is called by its servers, as InferenceModelRewrites that our picker carries out.

Rule:    a picker knows the pool and the model, not the rule: what a pool is asked for under one name is
         called one name there, whichever rule it came by.
Source:  docs/kubernetes.md, of what the picker makes of them.
"""

from dataclasses import dataclass, field

from epp.compiler.emission import Emitted, made
from epp.compiler.findings import Finding, Origin, error
from epp.compiler.intent import Backend, Pool, Router, Rule, is_glob
from epp.compiler.names import name_of

_EVERY = ""
"""Instead of a model: whatever it is."""


@dataclass
class _Asked:
    """By what names one pool is asked, and what they become; empty: they stay."""

    names: dict[str, str] = field(default_factory=dict)
    sources: dict[Origin, None] = field(default_factory=dict)


class Names:
    """Of all pools of all routers, the oldest first."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, str], _Asked] = {}

    def ask(self, router: Router) -> list[Finding]:
        """What the rules of ``router`` want; errors where older ones want something else."""
        wanted = [
            (rule, one, pool, model, "" if one.model == model else one.model)
            for rule in router.rules
            for one in rule.backends
            for pool in [one.servers]
            if isinstance(pool, Pool)
            for model in _models(rule)
        ]
        own: dict[tuple[str, str, str], str] = {}
        findings = []
        for rule, one, pool, model, called in wanted:
            older = self._pools.get((pool.namespace, pool.name), _Asked()).names
            name = older.get(model, own.setdefault((pool.namespace, pool.name, model), called))
            if name != called:
                findings.append(_clash(rule, one, model, name))
        if not findings:
            for _, _, pool, model, called in wanted:
                asked = self._pools.setdefault((pool.namespace, pool.name), _Asked())
                asked.names[model] = called
                asked.sources[router.origin.at("")] = None
        return findings

    def objects(self) -> list[Emitted]:
        """One for each pool that calls a model otherwise."""
        return [
            made(
                "llm-d.ai/v1alpha2",
                "InferenceModelRewrite",
                namespace,
                name_of(name, "models"),
                *asked.sources,
                spec={"poolRef": {"name": name}, "rules": _rules(asked.names)},
            )
            for (namespace, name), asked in sorted(self._pools.items())
            if any(asked.names.values())
        ]


def _models(rule: Rule) -> list[str]:
    named = [model for model in rule.models if not is_glob(model)]
    return named if rule.models and len(named) == len(rule.models) else [*named, _EVERY]


def _rules(names: dict[str, str]) -> list[dict[str, object]]:
    """One for each name that changes; where every other name does, one for each that stays."""
    every = names.get(_EVERY, "")
    found: list[dict[str, object]] = [
        {"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": name or model}]}
        for model, name in sorted(names.items())
        if model != _EVERY and (name or every)
    ]
    return [*found, {"targets": [{"modelRewrite": every}]}] if every else found


def _clash(rule: Rule, backend: Backend, model: str, name: str) -> Finding:
    asked = model or "whatever else it is asked for"
    return error(
        "UnsupportedModelOverride",
        rule.origin,
        f"rule {rule.name} has {backend.name} asked for {backend.model or 'what the client named'}, and"
        f" another rule calls {asked} {name or 'as the client did'}; a picker does not see by which rule a"
        " request came",
        "use one name for one model and one pool, or the target agentgateway",
    )
