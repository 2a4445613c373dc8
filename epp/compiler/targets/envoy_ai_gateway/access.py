"""Who may ask for which model: one SecurityPolicy for all routers of a Gateway, or of a listener.

Place:   beside gateways.py.
Rule:    authentication is never on a route: the first route that matches decides which filters run, and that
         is the 404 of the oldest AIGatewayRoute, before the model is known. Authorization runs when it is.

Routers that anybody may use stay open where their models can be listed: a token may then be missing, and
whoever has none gets these models only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, Origin, error, info
from epp.compiler.intent import Jwt, Router, is_glob
from epp.compiler.names import name_of
from epp.compiler.overlaps import said
from epp.compiler.patterns import literal, matches
from epp.compiler.targets.envoy_ai_gateway.gateways import API, target
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL
from epp.compiler.targets.envoy_ai_gateway.refused import Refused
from epp.compiler.targets.envoy_ai_gateway.surroundings import Gateway

MOST_PROVIDERS = 16
MOST_VALUES = 256
"""Of a header in one rule."""


def objects(gateway: Gateway, routers: Sequence[Router]) -> tuple[list[Emitted], list[Finding]]:
    """Of one Gateway."""
    secured = [one for one in routers if one.access]
    if not secured:
        return [], []
    theirs = next(gateway.others("SecurityPolicy"), None)
    if theirs is not None:
        return [], [_taken(one, gateway, theirs.name) for one in secured]
    emitted, findings = list[Emitted](), list(_lists_models(secured))
    for section, here in _scopes(routers):
        contested = [*_contested(here), *_unsure(here)]
        findings += contested
        if contested:
            continue
        try:
            emitted.append(_policy(gateway, section, here))
        except Refused as refused:
            findings.append(refused.finding)
    return emitted, findings


def _taken(router: Router, gateway: Gateway, name: str) -> Finding:
    return Refused(
        "PolicyOfAnother",
        _origin(router),
        f"Gateway {gateway.namespace}/{gateway.name} has SecurityPolicy {name}, which is not ours; a second"
        " one"
        " would count for nothing, and the router would be open to everybody",
        f"add to {name} the JWT provider and the authorization rules of this router, and remove policy.auth"
        " here; or remove it, so that all of them are made here; or use another Gateway",
    ).finding


def _lists_models(secured: Sequence[Router]) -> Iterator[Finding]:
    for one in secured:
        if one.access and one.access.allowances:
            yield info(
                "ModelNamesAreListed",
                one.access.origin,
                "GET /v1/models names the models of all teams to whoever may ask for it; asking them is"
                " what is"
                " restricted",
            )
            return


def _scopes(routers: Sequence[Router]) -> Iterator[tuple[str, list[Router]]]:
    """Listeners, by name, and the routers on them that one policy is for; empty: all listeners."""
    sections = dict.fromkeys(one.gateway.section for one in routers if one.access)
    if "" in sections:
        yield "", list(routers)
        return
    for section in sections:
        yield section, [one for one in routers if one.gateway.section in {"", section}]


def _contested(routers: Sequence[Router]) -> Iterator[Finding]:
    """Of the younger of two that list one model, at whatever hostname, and let not the same clients ask for
    it: a rule of the policy knows no hostname, so the one would open or close the other's."""
    owners: dict[str, Router] = {}
    for router in sorted(routers, key=_age):
        for model in dict.fromkeys(one for rule in router.rules for one in map(literal, rule.models)):
            older = router if model is None else owners.setdefault(model, router)
            if said(older) == said(router):
                continue
            yield error(
                "AccessNotSeparable",
                _origin(router),
                f"model {model} is that of {older.origin.object}, too, which is older and lets others ask for"
                " it; a Gateway has one policy, which knows requests by their model",
                "give one of them a listener (section) or a Gateway of its own, or the same authentication to"
                " both, or the model another name",
            )
            break


def _unsure(routers: Sequence[Router]) -> Iterator[Finding]:
    """Of the younger of two that let not the same clients ask, where one names a model that at times the
    other serves without naming it."""
    for one in routers:
        for other in routers:
            if said(one) == said(other):
                continue
            model = next((name for name in _named_at_times(one, other) if _takes_unnamed(other, name)), None)
            if model is None:
                continue
            younger = max(one, other, key=_age)
            yield error(
                "AccessNotSeparable",
                _origin(younger),
                f"model {model} is served by {one.origin.object} or by {other.origin.object}, as headers,"
                " hostname or listener of a request have it, and they let not the same clients ask for it; a"
                " Gateway has one policy, which knows requests by their model",
                "give one of them a Gateway of its own, or the same authentication to both",
            )
            return


def _named_at_times(one: Router, beside: Router) -> Iterator[str]:
    """Models that a request for may still come to ``beside``."""
    is_everywhere = one.gateway.section in {"", beside.gateway.section} and (
        not one.hostnames or set(one.hostnames) >= set(beside.hostnames) > set()
    )
    always = {model for rule in one.rules if not rule.conditions for model in map(literal, rule.models)}
    for model in (model for rule in one.rules for model in map(literal, rule.models)):
        if model is not None and not (is_everywhere and model in always):
            yield model


def _takes_unnamed(router: Router, model: str) -> bool:
    """By a default, a glob, or headers alone."""
    return any(
        not rule.models or any(is_glob(each) and matches(each, model) for each in rule.models)
        for rule in router.rules
    )


def _policy(gateway: Gateway, section: str, routers: Sequence[Router]) -> Emitted:
    """Refused: what one router wants cannot be had beside another."""
    providers = _providers(routers)
    if len(providers) > MOST_PROVIDERS:
        youngest = max((one for one in routers if one.access), key=_age)
        raise Refused(
            "AccessNotSeparable",
            _origin(youngest),
            f"{len(providers)} issuers of tokens on one Gateway, whose policy has at most {MOST_PROVIDERS}",
            "give the router a listener (section) or a Gateway of its own",
        )
    spec: Object = {
        "targetRefs": [target(gateway, section)],
        "jwt": {"providers": [one.written() for one in providers.values()]},
    }
    opened = [one for one in routers if not one.access]
    if opened:
        spec["jwt"]["optional"] = True
    if not _is_any_token_enough(routers):
        # without any rule nobody gets in: the lists may name models that are not here
        spec["authorization"] = {"defaultAction": "Deny", "rules": list(_rules(routers, providers))}
    name = name_of(gateway.name, *([section] if section else []), "access")
    sources = [one.origin.at("") for one in routers]
    return made(API, "SecurityPolicy", gateway.namespace, name, *sources, spec=spec)


@dataclass(frozen=True, slots=True)
class _Provider:
    name: str
    jwt: Jwt

    def written(self) -> Object:
        claim = {"claim": self.jwt.team_claim, "header": self.jwt.team_header}
        audiences = {"audiences": list(self.jwt.audiences)} if self.jwt.audiences else {}
        return {
            "name": self.name,
            "issuer": self.jwt.issuer,
            **audiences,
            "remoteJWKS": {"uri": self.jwt.jwks},
            "claimToHeaders": [claim],
        }


def _providers(routers: Sequence[Router]) -> dict[Jwt, _Provider]:
    found: dict[Jwt, _Provider] = {}
    names: set[str] = set()
    for router in routers:
        if router.access and router.access.jwt not in found:
            jwt = router.access.jwt
            name = jwt.provider if jwt.provider not in names else name_of(jwt.provider, router.name)
            names.add(name)
            found[jwt] = _Provider(name, jwt)
    return found


# --- rules ---------------------------------------------------------------------------------------------


def _is_any_token_enough(routers: Sequence[Router]) -> bool:
    """For everything that any of them serves."""
    first = routers[0].access
    return first is not None and not first.allowances and len({said(one) for one in routers}) == 1


def _rules(routers: Sequence[Router], providers: dict[Jwt, _Provider]) -> Iterator[Object]:
    accesses = {said(one) for one in routers if one.access}
    seen: set[object] = set()
    for router in routers:
        if router.access is None:
            named = _listed(router, routers, "stays open to everybody")
            yield from _allow(name_of("open", router.namespace, router.name), {}, named)
            continue
        is_alone = len(accesses) == 1
        if is_alone and said(router) in seen:
            continue
        seen.add(said(router))
        models = None if is_alone else _listed(router, routers, "has tokens or teams of its own")
        yield from _of_router(router, providers[router.access.jwt], models)


def _of_router(router: Router, provider: _Provider, models: Sequence[str] | None) -> Iterator[Object]:
    """``models``: its own, to which its teams are held; None: they need not be."""
    access = router.access
    assert access
    prefix = "" if models is None else name_of(router.namespace, router.name) + "-"
    if not access.allowances:
        # a valid token is one of this issuer
        principal = {"jwt": _claims(provider, "iss", provider.jwt.issuer)}
        yield from _allow(f"{prefix}any-team", principal, models)
    for allowance in access.allowances:
        globs = [one for one in allowance.models if is_glob(one)]
        if globs:
            raise Refused(
                "InvalidAuthorization",
                access.origin,
                f"team {allowance.team} may ask for {', '.join(globs)}, and the gateway compares whole names",
                "list the models by name",
            )
        wanted: Sequence[str] | None = allowance.models or models
        if allowance.models and models is not None:
            wanted = tuple(one for one in allowance.models if one in models)
            if not wanted:
                continue
        principal = {"jwt": _claims(provider, access.jwt.team_claim, allowance.team)}
        yield from _allow(f"{prefix}{name_of('team', allowance.team)}", principal, wanted or None)


def _claims(provider: _Provider, name: str, value: str) -> Object:
    return {"provider": provider.name, "claims": [{"name": name, "values": [value]}]}


def _allow(name: str, principal: Object, models: Sequence[str] | None) -> Iterator[Object]:
    """``models`` None: whichever."""
    if models is None:
        yield {"name": name, "action": "Allow", "principal": principal}
        return
    for at in range(0, len(models), MOST_VALUES):
        headers = [{"name": MODEL, "values": list(models[at : at + MOST_VALUES])}]
        part = f"{name}-{at // MOST_VALUES + 1}" if at else name
        yield {"name": part, "action": "Allow", "principal": {**principal, "headers": headers}}


def _listed(router: Router, routers: Sequence[Router], why: str) -> tuple[str, ...]:
    """Its models by name. Refused: it takes others, too, which cannot be told from those of the others."""
    if all(rule.models and not any(map(is_glob, rule.models)) for rule in router.rules):
        return tuple(dict.fromkeys(model for rule in router.rules for model in rule.models))
    others = [one for one in routers if one.access and said(one) != said(router)]
    blamed, beside = max([router, *others], key=_age), others[0]
    raise Refused(
        "AccessNotSeparable",
        _origin(blamed),
        f"{router.origin.object} {why} beside {beside.origin.object} on one Gateway, but takes models that it"
        " does not name, by a glob, a default or headers alone; a Gateway has one policy, which knows"
        " requests"
        " by their model",
        "give one of them a listener (section) or a Gateway of its own, or the same authentication to both,"
        " or"
        " name all models",
    )


def _age(router: Router) -> tuple[str, str, str]:
    return router.origin.age


def _origin(router: Router) -> Origin:
    return router.access.origin if router.access else router.origin
