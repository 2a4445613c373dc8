"""Which backends a request gets to: by the rules of a router, and by those of Envoy Gateway.

Two independent readings. Neither uses anything of what is tested.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from epp.compiler.intent import Router, Rule

Headers = Mapping[str, str]


# --- the router ----------------------------------------------------------------------------------------


def decided(router: Router, model: str, headers: Headers) -> Rule | None:
    """The first rule that fits."""
    return next((one for one in router.rules if _fits(one, model, headers)), None)


def _fits(rule: Rule, model: str, headers: Headers) -> bool:
    if rule.models and not any(glob(one, model) for one in rule.models):
        return False
    for condition in rule.conditions:
        value = headers.get(condition.header)
        if value is None:
            return False
        known = condition.values
        if condition.ignore_case:
            value, known = value.lower(), tuple(one.lower() for one in known)
        if value not in known:
            return False
    return True


def glob(pattern: str, text: str) -> bool:
    """Go's path.Match, of patterns without sets."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return glob(pattern[1:], text) or bool(text and text[0] != "/" and glob(pattern, text[1:]))
    if pattern[0] == "?":
        return bool(text and text[0] != "/" and glob(pattern[1:], text[1:]))
    return text[:1] == pattern[0] and glob(pattern[1:], text[1:])


# --- Envoy Gateway -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One route in Envoy: a match of a rule. ``rule`` None: the 404 at the end of each HTTPRoute."""

    route: str
    headers: list[dict[str, str]]
    rule: dict[str, Any] | None

    @property
    def rank(self) -> tuple[int, int]:
        return -len(self.headers), -sum(one.get("type", "Exact") == "Exact" for one in self.headers)


def table(documents: Iterable[dict[str, Any]], *, preserve_order: bool = False) -> list[Entry]:
    """As Envoy has it. Routes are of one age, so that their names decide."""
    routes = sorted(
        (one for one in documents if one["kind"] == "AIGatewayRoute"),
        key=lambda one: (one["metadata"]["namespace"], one["metadata"]["name"]),
    )
    entries = [entry for route in routes for entry in _entries(route)]
    return entries if preserve_order else sorted(entries, key=lambda one: one.rank)


def _entries(route: dict[str, Any]) -> Iterator[Entry]:
    name = route["metadata"]["name"]
    for rule in route["spec"]["rules"]:
        for match in rule["matches"]:
            yield Entry(name, match.get("headers", []), rule)
    yield Entry(name, [], None)


def routed(entries: list[Entry], model: str, headers: Headers) -> dict[str, Any] | None:
    """The rule that a request gets to; None: 404."""
    given = {**headers, "x-ai-eg-model": model}
    return next(one.rule for one in entries if all(_has(given, header) for header in one.headers))


def _has(given: Headers, header: dict[str, str]) -> bool:
    value = given.get(header["name"])
    if value is None:
        return False
    if header.get("type", "Exact") == "Exact":
        return value == header["value"]
    return re.fullmatch(header["value"], value) is not None
