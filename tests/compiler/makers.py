"""Intents for tests, in few words."""

from typing import Any

from epp.compiler.findings import Origin
from epp.compiler.intent import Backend, GatewayRef, Pool, Router, Rule

GATEWAY = GatewayRef("ai", "edge")


def origin(name: str, created: str = "", kind: str = "ModelRouter") -> Origin:
    return Origin(kind, "llm", name, api_version="inference.llmkube.dev/v1alpha1", created=created)


def pool(name: str, *, pods: bool = True, service: bool = True, **more: Any) -> Pool:
    """Of pods that a label names; or of a machine whose slice somebody keeps."""
    given = {"selector": {"app": name}, "ports": (8000,)} if pods else {"slices": (name,)}
    return Pool(name, "llm", origin(name), **{**given, "service": f"{name}:80" if service else "", **more})


def backend(pool: Pool, **more: Any) -> Backend:
    return Backend(pool.name, pool, pool.origin, **more)


def rule(*backends: Backend, name: str = "r", of: Origin | None = None, **more: Any) -> Rule:
    return Rule(name, backends, of or origin("router"), **more)


def router(name: str, *rules: Rule, created: str = "", **more: Any) -> Router:
    return Router(name, "llm", GATEWAY, rules, origin(name, created), **more)
