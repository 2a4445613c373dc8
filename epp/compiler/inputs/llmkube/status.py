"""What LLMKube's users read in the status of a claimed object: ``status.gateway``, condition GatewayReady.

Place:   called by epp.controller after it has applied what was compiled.
Ignores: how it is written, and the time of a transition (who writes it knows that).
Rule:    one word about each claimed object that asks for a gateway, and for one that asked for it before.
         Ready means that the gateway has accepted the routes, not that the API server has.
Source:  LLMKube's own reasons and messages for the condition (v0.9.19).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding, Origin
from epp.compiler.inputs.llmkube.claiming import is_claimed
from epp.compiler.inputs.llmkube.gateways import endpoint
from epp.compiler.inputs.llmkube.known import Known
from epp.compiler.inputs.llmkube.routers import exposure, is_for_gateway, model_name
from epp.compiler.inputs.llmkube.servers import Servers
from epp.compiler.inputs.llmkube.telling import FAILED, Told
from epp.compiler.intent import Router
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options

CONDITION = "GatewayReady"
_NOBODY_SERVES = frozenset({"GatewayNotFound", "ListenerNotOpen"})
"""Findings that say why no gateway has accepted anything."""
LONGEST = 4096
"""Characters of a message; Kubernetes takes 32,768, people fewer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of what was made for an object. ``error``: why it could not be applied; empty: it was.

    ``refused``: why the gateway does not serve it, or not yet; empty: it does.
    """

    error: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """``gateway``: the whole of ``status.gateway``; None: it is to be taken away.

    ``condition``: all of it but the time of its transition.
    """

    origin: Origin
    gateway: Mapping[str, Any] | None
    condition: Mapping[str, Any]


def words(
    documents: Documents,
    options: Options,
    routers: Iterable[Router],
    findings: Iterable[Finding],
    *,
    outcomes: Mapping[str, Outcome],
    missing: Collection[str] = (),
    call: Call = plainly,
) -> Iterator[Word]:
    """``routers``: that were compiled. ``outcomes``: by ``Origin.object``; what is not there has not been
    applied yet. ``missing``: kinds that the gateway needs and the cluster does not know.
    """
    known = Known(documents, options, call)
    servers = Servers(known, options)
    compiled = {one.origin.object: one for one in routers}
    told: dict[str, list[Finding]] = {}
    for one in findings:
        told.setdefault(one.origin.object, []).append(one)
    for document in (*known.all("InferenceService"), *known.all("ModelRouter")):
        if not is_claimed(document, options):
            continue
        name = document.origin.object
        about = told.get(name, [])
        has_failed = any(one.is_error for one in about)
        if has_failed or _asks(document, servers, options):
            outcome = outcomes.get(name, Outcome(refused="it has not been applied yet"))
            status, reason, message = _verdict(compiled.get(name), about, outcome, missing)
            gateway = _gateway(document, compiled.get(name), servers, documents, is_ready=status)
            yield Word(document.origin, gateway, _made(document, status, reason, message))
        elif (_condition(document) or {}).get("status") == "True":
            message = "it does not ask for a gateway any more"
            yield Word(document.origin, None, _made(document, False, "NotExposed", message))


def _asks(document: Document, servers: Servers, options: Options) -> bool:
    if document.kind == "ModelRouter":
        return is_for_gateway(document, options, Told(document.origin))
    return exposure(servers.spec((document.namespace, document.name))) is not None


def _verdict(
    router: Router | None, about: Iterable[Finding], outcome: Outcome, missing: Collection[str]
) -> tuple[bool, str, str]:
    """Whether it is ready, the reason, and the message."""
    errors = [one for one in about if one.is_error]
    if missing:
        return False, "GatewayCRDsNotInstalled", f"the cluster does not know {', '.join(sorted(missing))}"
    if errors:
        said = "; ".join(f"{one.origin.field or 'the object'}: {one.message}: {one.fix}" for one in errors)
        return False, errors[0].code, f"{said}; what was made of it before stays"
    if outcome.error:
        return False, FAILED, outcome.error
    if router is None:
        said = "; ".join(one.message for one in about) or "nothing is left of it"
        return False, next((one.code for one in about), FAILED), said
    if outcome.refused:
        cause = next((one for one in about if one.code in _NOBODY_SERVES), None)
        if cause is not None:
            return False, FAILED, f"{cause.message}: {cause.fix} ({outcome.refused})"
        return False, FAILED, f"the gateway does not serve it: {outcome.refused}"
    return True, "Exposed", _summary(router)


def _summary(router: Router) -> str:
    where = f"{router.gateway.namespace or router.namespace}/{router.gateway.name}"
    rules = [one for one in router.rules if one.backends]
    parts = [f"compiled {len(rules)} rule(s) onto gateway {where}"]
    if router.budgets:
        parts.append(f"enforced {len(router.budgets)} token budget(s)")
    if router.access is not None:
        parts.append("JWT authentication enforced")
        if router.access.allowances:
            parts.append(f"{len(router.access.allowances)} team model allowlist(s) enforced")
    down = sorted({one.name for rule in router.rules for one in rule.backends if one.down})
    if down:
        parts.append(f"ejected {len(down)} unhealthy backend(s): {', '.join(down)}")
    return "; ".join(parts)


def _gateway(
    document: Document, router: Router | None, servers: Servers, documents: Documents, *, is_ready: bool
) -> dict[str, Any]:
    said: dict[str, Any] = {"routeReady": is_ready}
    if document.kind == "InferenceService":
        how = exposure(servers.spec((document.namespace, document.name)))
        said |= {"modelName": model_name(document, how)} if how is not None else {}
    elif router is not None:
        where = endpoint(router.gateway, documents)
        said |= {"endpoint": where} if where else {}
        said |= {"authEnabled": True} if router.access is not None else {}
    return said


def _condition(document: Document) -> Mapping[str, Any] | None:
    found = document.status.get("conditions")
    conditions = found if isinstance(found, list) else []
    ours = (one for one in conditions if isinstance(one, Mapping) and one.get("type") == CONDITION)
    return next(ours, None)


def _made(document: Document, is_ready: bool, reason: str, message: str) -> dict[str, Any]:
    cut = message if len(message) <= LONGEST else f"{message[: LONGEST - 1]}…"
    made = {"type": CONDITION, "status": str(is_ready), "reason": reason, "message": cut}
    generation = document.metadata.get("generation")
    return {**made, "observedGeneration": generation} if isinstance(generation, int) else made
