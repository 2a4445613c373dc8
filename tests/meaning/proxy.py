"""LLMKube's router-proxy: what it does with a request, by the rules of a ModelRouter.

Source: its data plane at v0.9.19. Written from its rules alone; shares no code with the compiler.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tests.meaning.request import Answer, Request

CLASSIFICATION = "x-llmkube-classification"
COMPLEXITY = "x-llmkube-task-complexity"
SENSITIVE = ("pii", "phi")
"""Where the router lists none."""


def answer(router: Mapping[str, Any], request: Request) -> Answer:
    """``router``: its spec."""
    backends = {one["name"]: one for one in router["backends"]}
    features = _features(router, request)
    for rule in router.get("rules", ()):
        if _matches(rule, backends, features):
            return _dispatched(router, rule, backends, features)
    if router.get("defaultRouteStrategy") == "BackendNameMatch" and features["model"]:
        for one in router["backends"]:
            if features["model"] in {one.get("displayName"), one["name"]}:
                return Answer((identity(one),), "its name")
    if router.get("defaultRoute"):
        return Answer((identity(backends[router["defaultRoute"]]),), "defaultRoute")
    return Answer(because="no rule matched and no defaultRoute configured")


def identity(backend: Mapping[str, Any]) -> str:
    """By which both evaluators know it."""
    if "inferenceServiceRef" in backend:
        return str(backend["inferenceServiceRef"]["name"])
    return str(urlsplit(backend["external"]["url"]).hostname)


def _features(router: Mapping[str, Any], request: Request) -> dict[str, Any]:
    policy = router.get("policy", {}).get("classification", {})
    key = (policy.get("headerKey") or "").strip() or CLASSIFICATION
    return {
        "model": request.model,
        "classification": request.headers.get(key.lower(), "").lower(),
        "complexity": request.headers.get(COMPLEXITY, "").lower(),
        "headers": request.headers,
    }


def _matches(rule: Mapping[str, Any], backends: Mapping[str, Any], features: Mapping[str, Any]) -> bool:
    match = rule.get("match") or {}
    classes, wanted = match.get("dataClassification") or [], match.get("requiredCapabilities") or []
    models, complexity = match.get("models") or [], match.get("taskComplexity")
    able = [backends[name].get("capabilities") or [] for name in rule["route"]["backends"]]
    return (
        (not classes or features["classification"] in classes)
        and (not complexity or features["complexity"] == complexity)
        and (not models or any(_fits(one, features["model"]) for one in models))
        and all(features["headers"].get(k.lower()) == v for k, v in (match.get("headers") or {}).items())
        and (not wanted or any(set(wanted) <= set(one) for one in able))
    )


def _fits(pattern: str, model: str) -> bool:
    if not model:
        return pattern == "*"
    try:
        return path_match(pattern, model)
    except ValueError:
        return False


def _dispatched(
    router: Mapping[str, Any],
    rule: Mapping[str, Any],
    backends: Mapping[str, Any],
    features: Mapping[str, Any],
) -> Answer:
    chosen = [backends[name] for name in rule["route"]["backends"]]
    policy = router.get("policy", {}).get("classification", {})
    sensitive = policy.get("sensitiveClassifications") or SENSITIVE
    is_closed = rule.get("failClosed") and features["classification"] in sensitive
    if is_closed and any(one.get("tier", "local") != "local" for one in chosen):
        return Answer(because="fail closed")
    return Answer(tuple(map(identity, chosen)), rule["name"])


# --- Go's path.Match -----------------------------------------------------------------------------------


def path_match(pattern: str, name: str) -> bool:
    """``*`` and ``?`` stand for anything but ``/``; ``[a-c]``, ``[^x]``; ``\\`` before a sign means that
    sign.

    ValueError for a bad pattern, even where the beginning does not fit already.
    """
    return _from(_parsed(pattern), name)


def _from(signs: Sequence[Any], name: str) -> bool:
    if not signs:
        return not name
    first, rest = signs[0], signs[1:]
    if first == "*":
        ends = range(len(name.partition("/")[0]) + 1)
        return any(_from(rest, name[end:]) for end in ends)
    return bool(name) and first(name[0]) and _from(rest, name[1:])


def _parsed(pattern: str) -> list[Any]:
    signs: list[Any] = []
    rest = pattern
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            signs.append("*")
        elif sign == "?":
            signs.append(lambda c: c != "/")
        elif sign == "[":
            one, rest = _class(rest)
            signs.append(one)
        else:
            if sign == "\\":
                sign, rest = _sign(rest, "\\")
            signs.append(lambda c, sign=sign: c == sign)
    return signs


def _class(rest: str) -> tuple[Any, str]:
    negated = rest[:1] == "^"
    rest = rest[negated:]
    ranges: list[tuple[str, str]] = []
    while not (rest[:1] == "]" and ranges):
        if not rest or rest[0] in "-]":
            raise ValueError("bad pattern")
        low, rest = _sign(rest[1:], rest[0])
        high = low
        if rest[:1] == "-":
            if not rest[1:] or rest[1] in "-]":
                raise ValueError("bad pattern")
            high, rest = _sign(rest[2:], rest[1])
        ranges.append((low, high))
    return (lambda c: any(low <= c <= high for low, high in ranges) != negated), rest[1:]


def _sign(rest: str, first: str) -> tuple[str, str]:
    if first != "\\":
        return first, rest
    if not rest:
        raise ValueError("bad pattern")
    return rest[0], rest[1:]
