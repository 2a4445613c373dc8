"""What a ModelRouter asks of all requests: budgets, whose tokens are accepted, the audit log.

Rule:    what would not be enforced as it is written is an error, since whoever wrote a limit relies on it.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from epp.compiler.confidential import has_login, shown
from epp.compiler.inputs.llmkube import objects
from epp.compiler.inputs.llmkube.telling import Told
from epp.compiler.intent import Access, Allowance, Budget, Jwt, Scope

TEAM_HEADER = "x-llmkube-team"
WINDOW = 3600
"""[s] Of budgets that say none."""


def read_access(auth: objects.Auth | None, told: Told) -> Access | None:
    """None: everybody may ask, or it is wrong, which is told."""
    if auth is None or (auth.jwt is None and not auth.allowlists):
        return None
    if auth.jwt is None:
        told.error(
            "AuthorizationRequiresJWT",
            "spec.policy.auth.allowlists",
            "allowlists are by team, and without jwt nobody says whose team a request is of",
            "add spec.policy.auth.jwt",
        )
        return None
    jwt = _jwt(auth.jwt, told)
    allowances = _allowances(auth.allowlists or (), told)
    return Access(jwt, told.origin.at("spec.policy.auth"), allowances) if jwt is not None else None


def _jwt(jwt: objects.Jwt, told: Told) -> Jwt | None:
    field = "spec.policy.auth.jwt"
    needed = {
        "provider": jwt.provider,
        "issuer": jwt.issuer,
        "jwksURI": jwt.jwks_uri,
        "teamClaim": jwt.team_claim,
    }
    missing = [name for name, value in needed.items() if not (value or "").strip()]
    for name in missing:
        told.error("InvalidAuth", f"{field}.{name}", f"{name} is missing", "write it")
    if missing:
        return None
    for name, url in (("issuer", jwt.issuer or ""), ("jwksURI", jwt.jwks_uri or "")):
        if has_login(url):
            what = f"{name} has a password in it, which everybody can read"
            told.error("InvalidAuth", f"{field}.{name}", what, "write it without")
            return None
    if not _is_url(jwt.jwks_uri or ""):
        told.error(
            "InvalidAuth",
            f"{field}.jwksURI",
            f"{shown(jwt.jwks_uri or '')!r} is no URL that a gateway can get keys from",
            "write, for example, https://keycloak.example.com/realms/site/protocol/openid-connect/certs",
        )
        return None
    return Jwt(
        issuer=jwt.issuer or "",
        jwks=jwt.jwks_uri or "",
        team_claim=jwt.team_claim or "",
        team_header=_header(jwt.header_key) or TEAM_HEADER,
        provider=jwt.provider or "",
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _allowances(lists: Collection[objects.Allowlist], told: Told) -> tuple[Allowance, ...]:
    found: dict[str, Allowance] = {}
    for index, one in enumerate(lists):
        field = f"spec.policy.auth.allowlists[{index}].team"
        team = one.team or ""
        if not team.strip():
            told.error("InvalidAuthorization", field, "an allowlist is for no team", "name it")
        elif team in found:
            told.error("InvalidAuthorization", field, f"team {team} has two allowlists", "join them")
        else:
            found[team] = Allowance(team, tuple(dict.fromkeys(one.models or ())))
    return tuple(found.values())


def read_budgets(
    policy: objects.Policy, names: Collection[str], access: Access | None, told: Told
) -> tuple[Budget, ...]:
    """``names``: of all rules that are written, also of those that are left out."""
    found: dict[str, Budget] = {}
    for index, one in enumerate(policy.budgets or ()):
        field = f"spec.policy.budgets[{index}]"
        if one.name in found:
            told.error("InvalidBudget", f"{field}.name", f"two budgets are called {one.name}", "rename one")
            continue
        budget = _budget(one, field, names, access, told)
        if budget is not None:
            found[one.name] = budget
    return tuple(found.values())


def _budget(
    one: objects.Budget, field: str, names: Collection[str], access: Access | None, told: Told
) -> Budget | None:
    if one.max_usd is not None and one.max_usd.strip():
        told.error(
            "UnsupportedBudgetField",
            f"{field}.maxUSD",
            f"budget {one.name} is in dollars, and gateways count tokens",
            "write maxTokens instead: dollars divided by the price of a token",
        )
        return None
    if one.max_tokens is None:
        told.error("InvalidBudget", field, f"budget {one.name} says no limit", "write maxTokens")
        return None
    if one.scope not in set(Scope):
        told.error(
            "UnsupportedBudgetScope",
            f"{field}.scope",
            f"budget {one.name} has the scope {one.scope!r}",
            "write router, rule or team",
        )
        return None
    scope = Scope(one.scope)
    if scope is Scope.RULE and one.rule_name not in names:
        said = f"counts rule {one.rule_name}, which is not there" if one.rule_name else "counts no rule"
        told.error(
            "InvalidBudget", f"{field}.ruleName", f"budget {one.name} {said}", "name one of spec.rules"
        )
        return None
    return Budget(
        name=one.name,
        scope=scope,
        tokens=one.max_tokens,
        seconds=one.window_seconds or WINDOW,
        origin=told.origin.at(field),
        rule=one.rule_name or "" if scope is Scope.RULE else "",
        header=_team_header(one, field, access, told) if scope is Scope.TEAM else "",
    )


def _team_header(one: objects.Budget, field: str, access: Access | None, told: Told) -> str:
    verified = access.jwt.team_header if access is not None else ""
    header = _header(one.header_key) or verified or TEAM_HEADER
    if header != verified:
        told.info(
            "TeamNotVerified",
            f"{field}.headerKey",
            f"budget {one.name} is by the header {header}, which clients set as they like: who names another "
            "team has that team's budget",
            "let jwt set the header, with policy.auth.jwt.headerKey",
        )
    return header


def _header(name: str | None) -> str:
    return (name or "").strip().lower()


def read_audit(log: objects.AuditLog | None, told: Told) -> bool:
    """Whether a line is to be written for each request."""
    if log is None:
        return False
    field, code = "spec.policy.auditLog", "UnsupportedAuditLogInGatewayMode"
    if log.sink not in {None, "stdout"}:
        told.error(
            code,
            f"{field}.sink",
            f"sink {log.sink} is a setting of the whole gateway, not of one router",
            "write sink: stdout",
        )
    if log.include_request_body:
        told.error(
            code,
            f"{field}.includeRequestBody",
            "a gateway's access log has no bodies",
            "write includeRequestBody: false",
        )
    return True
