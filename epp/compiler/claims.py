"""Two objects that claim one model name at one gateway: the oldest has it, the other is told.

Place:   between inputs/ and targets/.
Rule:    only names are claimed, by rules that ask for nothing but the model. What else overlaps is tried in
         the routers' order, the oldest first, as gateways do it.
"""

from collections.abc import Iterable
from dataclasses import replace

from epp.compiler.findings import Finding, warning
from epp.compiler.intent import Router, Rule, is_glob


def settle(routers: Iterable[Router]) -> tuple[tuple[Router, ...], tuple[Finding, ...]]:
    """The routers, the oldest first, each without the names that an older one has."""
    owners: dict[tuple[object, ...], Router] = {}
    kept, findings = list[Router](), list[Finding]()
    for router in sorted(routers, key=lambda one: (one.origin.age, one.origin.kind)):
        rules = []
        for rule in router.rules:
            left, told = _settled(rule, router, owners)
            findings += told
            if left is not None:
                rules.append(left)
        if rules:
            kept.append(replace(router, rules=tuple(rules)))
    return tuple(kept), tuple(findings)


def _settled(
    rule: Rule, router: Router, owners: dict[tuple[object, ...], Router]
) -> tuple[Rule | None, list[Finding]]:
    if rule.conditions or not rule.models:
        return rule, []
    models, findings = [], []
    for model in rule.models:
        where = (router.gateway, router.hostnames, model)
        owner = router if is_glob(model) else owners.setdefault(where, router)
        if owner is router or owner.origin.object == router.origin.object:
            models.append(model)
            continue
        findings.append(
            warning(
                "ModelNameTaken",
                rule.origin,
                f"model {model} is that of {owner.origin.object}, which is older: this rule never sees it",
                f"give it another name here, or remove it from {owner.origin.object}",
            )
        )
    return (replace(rule, models=tuple(models)) if models else None), findings
