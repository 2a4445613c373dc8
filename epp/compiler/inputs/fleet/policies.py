"""Who may ask for what in a fleet, how much, and how urgently.

Place:   beside rules.py; what it makes are the intent's Access, Budgets and Objectives.
Rule:    a name that nothing has is an error of the whole fleet: nobody may do more, or less, than was meant.
"""

import re
from collections.abc import Iterator, Sequence

from epp.compiler import pools
from epp.compiler.findings import Origin
from epp.compiler.inputs.fleet.file import BudgetEntry
from epp.compiler.inputs.fleet.site import Site
from epp.compiler.intent import Access, Allowance, Budget, Jwt, Objective, Pool, Rule, Scope
from epp.compiler.names import name_of


def access(site: Site) -> Access | None:
    """None: everybody may ask for everything."""
    auth, teams = site.file.auth, site.file.teams
    if auth is None:
        if teams is not None and "auth" not in site.faulty:
            site.error(
                "AuthorizationRequiresJWT",
                site.origin.at("teams"),
                "nothing says who is of which team",
                'add "auth", or leave teams out',
            )
        return None
    jwt = Jwt(auth.issuer, auth.jwks, auth.claim, auth.header.lower(), audiences=auth.audiences or ())
    _check_names([team.name for team in teams or ()], site)
    allowances = tuple(
        Allowance(team.name, tuple(_allowed(team.models or (), site, site.origin.at(f"teams[{at}].models"))))
        for at, team in enumerate(teams or ())
    )
    return Access(jwt, site.origin.at("auth"), allowances)


def _check_names(names: Sequence[str], site: Site) -> None:
    """That no team is there twice: what it may ask for would be said in two places."""
    for at, name in enumerate(names):
        if name in names[:at]:
            message = f'"{name}" is the name of teams[{names.index(name)}] already'
            fix = "make one entry of the two, with the models of both"
            site.error("SpecInvalid", site.origin.at(f"teams[{at}].name"), message, fix)


def _allowed(names: Sequence[str], site: Site, where: Origin) -> Iterator[str]:
    """All names of the models that are named."""
    for name in dict.fromkeys(names):
        if name in site.models:
            yield from site.models[name].names
        elif name in site.broken:
            yield name
        else:
            fix = site.unknown_model(name)
            site.error("InvalidAuthorization", where, f'there is no model "{name}"', fix)


def budgets(site: Site, rules: Sequence[Rule]) -> tuple[Budget, ...]:
    """Those of models are one for each rule that leads to the model."""
    found: list[Budget] = []
    for index, one in enumerate(site.file.budgets):
        where = site.origin.at(f"budgets[{index}]")
        window = int(one.window)
        if one.model:
            several = list(_of_model(one.model, site, rules))
            found += [
                Budget(
                    name_of(rule.name, "budget", str(index)),
                    Scope.RULE,
                    one.tokens,
                    window,
                    where,
                    rule=rule.name,
                )
                for rule in several
            ]
            if len(several) > 1:
                _tell_sum(one, several, site, where)
            if one.model not in site.models and one.model not in site.broken:
                fix = site.unknown_model(one.model)
                site.error("InvalidBudget", where.at("+model"), f'there is no model "{one.model}"', fix)
        elif one.per == "team":
            found.append(Budget(f"team-{index}", Scope.TEAM, one.tokens, window, where, header=_header(site)))
        else:
            found.append(Budget(f"fleet-{index}", Scope.ROUTER, one.tokens, window, where))
    return tuple(found)


def _of_model(name: str, site: Site, rules: Sequence[Rule]) -> Iterator[Rule]:
    if name in site.models:
        origin = site.models[name].origin
        yield from (rule for rule in rules if rule.origin.object == origin.object and rule.backends)


def _tell_sum(budget: BudgetEntry, rules: Sequence[Rule], site: Site, where: Origin) -> None:
    count = len(rules)
    site.warning(
        "BudgetCountsApart",
        where,
        f"requests for {budget.model} go by {count} rules, {', '.join(one.name for one in rules)}, and each"
        f" counts by itself: {count * budget.tokens} tokens in all within the window",
        f"write tokens: {max(1, budget.tokens // count)}, or a budget of the whole fleet",
    )


def _header(site: Site) -> str:
    if site.file.auth is not None:
        return site.file.auth.header.lower()
    if "auth" in site.faulty:
        return "x-team"
    site.warning(
        "TeamsUnverified",
        site.origin.at("budgets"),
        "whoever asks can write any team into x-team, and has that team's budget",
        'add "auth"',
    )
    return "x-team"


def objectives(site: Site, rules: Sequence[Rule]) -> tuple[Objective, ...]:
    """One for each priority of each pool: objects of this kind are of one pool."""
    found: dict[tuple[str, str], Objective] = {}
    spoken = _spoken(site)
    for rule in rules if site.file.priorities else ():
        for pool in _pools(rule):
            for name, priority in site.file.priorities.items():
                own = f"{spoken.get(pool.name, pool.name)}-{name}"
                one = Objective(own, pool.namespace, pool.name, priority, rule.origin.at("priorities"))
                found.setdefault((pool.namespace, own), one)
    return tuple(found.values())


def _spoken(site: Site) -> dict[str, str]:
    """Names of models by those of their pools, where an object may have such a name: llama-3.3-70b."""
    own = ((one.own.name, one.entry.name) for one in site.entries if one.own is not None)
    return {
        pool: model for pool, model in own if re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,180}[a-z0-9])?", model)
    }


def _pools(rule: Rule) -> list[Pool]:
    merged = pools.merge(rule)
    if merged is not None:
        return [merged]
    return [one.servers for one in rule.backends if isinstance(one.servers, Pool)]
