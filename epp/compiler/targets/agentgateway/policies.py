"""AgentgatewayPolicies of a router: who may ask, how much, retries, and a 503 where nobody can serve.

Rule:    policies do not add up: of two that say the same field the narrower one counts. So each field is said
         in one place: who may ask for all routes of a router, retries for one rule of them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from epp.compiler.confidential import shown
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, Origin, error, quoted, warning
from epp.compiler.intent import Access, Allowance, Budget, Jwt, Router, Scope
from epp.compiler.names import name_of
from epp.compiler.options import Options
from epp.compiler.patterns import EXACT, BadPattern, of_model, regex
from epp.compiler.targets.agentgateway.servers import API, GROUP, Way
from epp.compiler.targets.gateway_api.routes import GATEWAY_API, Section, called, label

MOST_TARGETS, MOST_EXPRESSIONS, MOST_TOKENS = 16, 256, 2**31 - 1
RETRIED = (500, 501, 502, 503, 504, 505, 507, 508, 520, 521, 522, 523, 524, 525, 526, 529, 530)
"""Every status from 500 on that servers and the proxies before them send."""
_UNITS = (("Hours", 3600), ("Minutes", 60), ("Seconds", 1))


def of_router(
    router: Router, routes: Sequence[Sequence[Section]], ways: Sequence[Way], options: Options
) -> list[Emitted]:
    """Those that name its HTTPRoutes, or single rules of them."""
    whole = {"group": GATEWAY_API, "kind": "HTTPRoute", "matchLabels": label(router)}
    found: list[Emitted] = []
    if router.access:
        found += _access(router, router.access, whole, options)
    limits = [_limit(one) for one in router.budgets if one.scope is Scope.ROUTER]
    if limits:
        name = name_of(router.name, "budget")
        found.append(_for_all(router, name, whole, traffic={"rateLimit": {"local": limits}}))
    for index, way in enumerate(ways):
        rule = router.rules[index]
        sections = [
            _target("HTTPRoute", one.route, one.name)
            for route in routes
            for one in route
            if one.rule == index
        ]
        own = [_limit(one) for one in router.budgets if one.scope is Scope.RULE and one.rule == rule.name]
        traffic: Object = {"rateLimit": {"local": own}} if own else {}
        if way.unavailable:
            traffic["directResponse"] = {"status": 503, "body": _refusal(rule.name, way.unavailable)}
        elif way.attempts > 1:
            traffic["retry"] = {"attempts": way.attempts - 1, "codes": list(RETRIED)}
        if traffic and sections:
            here = [rule.origin.at("")]
            found += _policies(router, ["rule", called(router, rule)], sections, here, traffic=traffic)
    return found


def _refusal(rule: str, why: str) -> str:
    error = {"code": 503, "message": f"rule {rule}: {why}"[:1000]}
    return json.dumps({"error": error}, ensure_ascii=False)


def _access(router: Router, access: Access, whole: Object, options: Options) -> list[Emitted]:
    """Tokens, who may ask for what, and the team's header for whoever comes after."""
    jwt, source = access.jwt, router.origin.at("")
    at = urlsplit(jwt.jwks)
    name = name_of(router.name, "jwks")
    static = {"host": at.hostname, "port": at.port or (443 if at.scheme == "https" else 80)}
    keys = made(
        API,
        "AgentgatewayBackend",
        router.namespace,
        name,
        source,
        spec={"static": static, **({"policies": {"tls": {}}} if at.scheme == "https" else {})},
    )
    provider: Object = {"issuer": jwt.issuer}
    if jwt.audiences:
        provider["audiences"] = list(jwt.audiences)
    reference = {"group": GROUP, "kind": "AgentgatewayBackend", "name": name}
    path = at.path.lstrip("/") + (f"?{at.query}" if at.query else "")
    provider["jwks"] = {"remote": {"jwksPath": path, "backendRef": reference}}
    team = {"name": jwt.team_header, "value": _claim(jwt)}
    traffic: Object = {"jwtAuthentication": {"mode": "Strict", "providers": [provider]}}
    if access.allowances:
        allowed = [_allowed(jwt, one.team, one.models, options) for one in access.allowances]
        traffic["authorization"] = {"action": "Allow", "policy": {"matchExpressions": allowed}}
    traffic["transformation"] = {"request": {"set": [team]}}
    return [keys, _for_all(router, name_of(router.name, "access"), whole, traffic=traffic)]


def _allowed(jwt: Jwt, team: str, models: Sequence[str], options: Options) -> str:
    is_team = f"{_claim(jwt)} == {_text(team)}"
    if not models:
        return is_team
    return f"{is_team} && {_is_one_of(_header(options.model_header), models)}"


def _is_one_of(header: str, models: Sequence[str]) -> str:
    """In CEL; a regular expression is looked for anywhere in a text, and these begin and end with it."""
    matchers = [of_model(one) for one in models]
    names = [_text(one.value) for one in matchers if one.kind == EXACT]
    found = [f"{header} in [{', '.join(names)}]"] if names else []
    found += [f"{header}.matches({_text(one.regex)})" for one in matchers if one.kind != EXACT]
    return found[0] if len(found) == 1 else f"({' || '.join(found)})"


def _claim(jwt: Jwt) -> str:
    return "jwt" + "".join(f"[{_text(part)}]" for part in jwt.team_claim.split("."))


def _header(name: str) -> str:
    return f"request.headers[{_text(name)}]"


def _text(value: str) -> str:
    """In CEL, as in JSON, but that it knows no characters written as two halves."""
    return json.dumps(value, ensure_ascii=False)


def _limit(budget: Budget) -> Object:
    unit, seconds = _unit(budget)
    return {"tokens": max(1, budget.tokens * seconds // budget.seconds), "unit": unit}


def _unit(budget: Budget) -> tuple[str, int]:
    """The longest that fits into the window."""
    return next(one for one in _UNITS if one[1] <= budget.seconds)


# --- objects -----------------------------------------------------------------------------------------------


def _for_all(router: Router, name: str, whole: Object, **spec: Object) -> Emitted:
    """For all routes of ``router`` that there are, whatever they are called."""
    return made(
        API,
        "AgentgatewayPolicy",
        router.namespace,
        name,
        router.origin.at(""),
        spec={"targetSelectors": [whole], **spec},
    )


def _policies(
    router: Router, kind: Sequence[str], targets: Sequence[Object], sources: Iterable[Origin], **spec: Object
) -> list[Emitted]:
    """As many as it takes to name all ``targets``."""
    shares = [targets[start : start + MOST_TARGETS] for start in range(0, len(targets), MOST_TARGETS)]
    more = [() if number == 0 else (str(number),) for number in range(len(shares))]
    names = [name_of(router.name, *kind, *number) for number in more]
    return [
        _policy(router.namespace, name, share, sources, **spec)
        for name, share in zip(names, shares, strict=True)
    ]


def _policy(
    namespace: str, name: str, targets: Sequence[Object], sources: Iterable[Origin], **spec: Object
) -> Emitted:
    return made(
        API, "AgentgatewayPolicy", namespace, name, *sources, spec={"targetRefs": list(targets), **spec}
    )


def _target(kind: str, name: str, section: str = "") -> Object:
    found: Object = {"group": GATEWAY_API, "kind": kind, "name": name}
    return {**found, "sectionName": section} if section else found


# --- what is told ------------------------------------------------------------------------------------------


def refused(router: Router, routes: Sequence[Sequence[Section]]) -> list[Finding]:
    """What these policies cannot say, and what they say otherwise than it was meant."""
    found = [told for budget in router.budgets for told in _budget(budget, router, routes)]
    if len({one.scope for one in router.budgets} - {Scope.TEAM}) > 1:
        found.append(
            error(
                "UnsupportedBudgetScope",
                router.budgets[0].origin,
                "agentgateway has one budget for a request: that of a rule takes the place of the router's",
                "use one scope, or the target envoy-ai-gateway",
            )
        )
    if router.access:
        found += _refused_access(router.access, router)
    return found


def _budget(budget: Budget, router: Router, routes: Sequence[Sequence[Section]]) -> list[Finding]:
    if budget.scope is Scope.TEAM:
        return [
            error(
                "UnsupportedBudgetScope",
                budget.origin,
                f"budget {budget.name}: agentgateway counts a team's tokens only with a rate limit service of"
                " yours, whose limits are in its own configuration",
                "use the target envoy-ai-gateway, or give each team a router",
            )
        ]
    places = [one for route in routes for one in route if router.rules[one.rule].name == budget.rule]
    if len(routes) > 1 if budget.scope is Scope.ROUTER else len(places) > 1:
        return [
            error(
                "UnsupportedBudgetScope",
                budget.origin,
                f"budget {budget.name}: its rules stand in several places, and agentgateway counts in each",
                "use fewer rules or models, or the target envoy-ai-gateway",
            )
        ]
    if _limit(budget)["tokens"] > MOST_TOKENS:
        unit, _ = _unit(budget)
        return [
            error(
                "UnsupportedBudgetField",
                budget.origin,
                f"budget {budget.name}: more than {MOST_TOKENS} tokens in {unit.lower()[:-1]}",
                "take a shorter window",
            )
        ]
    return [_local(budget)]


def _local(budget: Budget) -> Finding:
    limit = _limit(budget)
    return warning(
        "BudgetPerReplica",
        budget.origin,
        f"budget {budget.name}: each replica of the gateway counts by itself, {limit['tokens']} tokens for"
        f" each of its {str(limit['unit']).lower()}, which it fills up all the while",
        "run one replica, or divide the budget by their number",
    )


def _is_address(url: str) -> bool:
    try:
        at = urlsplit(url)
        port = at.port or 443
    except ValueError:
        return False
    return at.scheme in {"http", "https"} and bool(at.hostname and at.path.strip("/")) and 0 < port < 65536


def _matchless(access: Access) -> Iterator[tuple[Allowance, str]]:
    """Patterns that match no model."""
    for allowance in access.allowances:
        for one in allowance.models:
            try:
                regex(one)
            except BadPattern:
                yield allowance, one


def _never(access: Access, team: str, pattern: str) -> Finding:
    return error(
        "InvalidAuthorization",
        access.origin,
        f"team {team} may ask for {quoted(pattern)}, which is no pattern that matches anything",
        "name the model, or write a pattern as in qwen-*",
    )


def _refused_access(access: Access, router: Router) -> list[Finding]:
    jwt, found = access.jwt, []
    if not _is_address(jwt.jwks):
        found.append(
            error(
                "InvalidAuth",
                access.origin,
                f"{shown(jwt.jwks)!r} is no address of keys",
                "name https://host/path",
            )
        )
    if not re.fullmatch(r"[^.]+(\.[^.]+)*", jwt.team_claim):
        found.append(
            error(
                "InvalidAuth", access.origin, f"{jwt.team_claim!r} is no claim", "name one, as in realm.team"
            )
        )
    if len(access.allowances) > MOST_EXPRESSIONS:
        found.append(
            error(
                "InvalidAuthorization",
                access.origin,
                f"{len(access.allowances)} teams, and a policy has {MOST_EXPRESSIONS} at most",
                "make several routers",
            )
        )
    found += [_never(access, allowance.team, one) for allowance, one in _matchless(access)]
    spoofable = [
        rule for rule in router.rules for one in rule.conditions if one.header == jwt.team_header.lower()
    ]
    found += [
        error(
            "UnsupportedMatchInGatewayMode",
            rule.origin,
            f"rule {rule.name} asks for {jwt.team_header}, which agentgateway fills from the token only when"
            " the rule is chosen: before that it is what the client wrote",
            "use the target envoy-ai-gateway, or an allow-list",
        )
        for rule in spoofable
    ]
    return found
