"""HTTPRoutes as a gateway reads them: which rule a request gets, by the precedence of the Gateway API."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from epp.compiler.emission import Emission, Object

LIMITS = {"rules": 16, "matches": 64, "matches of a route": 128, "headers": 16, "backendRefs": 16}


def of_kind(emission: Emission, kind: str) -> list[Object]:
    return [one.document for one in emission.objects if one.document["kind"] == kind]


def the(emission: Emission, kind: str) -> Object:
    (only,) = of_kind(emission, kind)
    return only


def codes(emission: Emission) -> list[str]:
    return [one.code for one in emission.findings]


def chosen(routes: Iterable[Object], request: Mapping[str, str]) -> Object | None:
    """The rule; None: 404. The most headers, then the first route by name, then the first rule."""
    found = [
        ((-len(match.get("headers", [])), route["metadata"]["name"], number), rule)
        for route in routes
        for number, rule in enumerate(route["spec"]["rules"])
        for match in rule["matches"]
        if _fits(match, request)
    ]
    return min(found, key=lambda one: one[0])[1] if found else None


def _fits(match: Mapping[str, Any], request: Mapping[str, str]) -> bool:
    return all(_has(request, one) for one in match.get("headers", []))


def _has(request: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    value = request.get(wanted["name"])
    if value is None:
        return False
    if wanted["type"] == "Exact":
        return value == wanted["value"]
    return re.fullmatch(wanted["value"], value) is not None


def assert_within_limits(routes: Iterable[Object], most_rules: int = LIMITS["rules"]) -> None:
    for route in routes:
        rules = route["spec"]["rules"]
        assert 0 < len(rules) <= most_rules
        assert sum(len(rule["matches"]) for rule in rules) <= LIMITS["matches of a route"]
        for rule in rules:
            assert 0 < len(rule["matches"]) <= LIMITS["matches"]
            assert len(rule.get("backendRefs", [])) <= LIMITS["backendRefs"]
            for match in rule["matches"]:
                names = [one["name"] for one in match.get("headers", [])]
                assert len(names) == len(set(names)) <= LIMITS["headers"]
