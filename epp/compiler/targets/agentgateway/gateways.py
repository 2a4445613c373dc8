"""What a Gateway is told for all of its routers: the model out of the body, and what its log says.

Rule:    of two policies with a transformation before routing only one counts. Where somebody else's is there
         and does not say the model, no router of that Gateway is made.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from epp.compiler import attachment
from epp.compiler.attachment import Thing
from epp.compiler.documents import Document, Documents
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, error
from epp.compiler.intent import GatewayRef, Router
from epp.compiler.marks import MANAGED_BY, MANAGER
from epp.compiler.names import name_of
from epp.compiler.node import Node
from epp.compiler.options import Options
from epp.compiler.targets.agentgateway.servers import API, GROUP
from epp.compiler.targets.gateway_api.routes import GATEWAY_API

MODEL = 'default(json(request.body).model, "")'
"""In CEL; a body without a model, or that is no JSON, has the empty one."""


def policies(routers: Sequence[Router], theirs: "Theirs", options: Options) -> list[Emitted]:
    """For each Gateway or listener the model's header, for each Gateway the log where a router wants one."""
    listeners: dict[GatewayRef, list[Router]] = {}
    audited: dict[tuple[str, str], list[Router]] = {}
    for router in routers:
        listeners.setdefault(router.gateway, []).append(router)
        if router.audit:
            audited.setdefault((router.gateway.namespace, router.gateway.name), []).append(router)
    models = [
        _model(gateway, here, options)
        for gateway, here in listeners.items()
        if not any(_says_model(one, options) for one in _transforming(gateway, theirs))
    ]
    return [*models, *(_log(*gateway, here, options) for gateway, here in audited.items())]


def refused(router: Router, theirs: "Theirs", options: Options) -> list[Finding]:
    """Where the model's header cannot be set."""
    gateway = router.gateway
    return [
        error(
            "PolicyOfAnother",
            router.origin,
            f"Gateway {gateway.namespace}/{gateway.name} has AgentgatewayPolicy {one.name}, which is not ours"
            " and transforms requests before routing; of two of them one would count for nothing",
            f"add to it: set: [{{name: {options.model_header}, value: '{MODEL}'}}]; or remove it",
        )
        for one in _transforming(gateway, theirs)
        if not _says_model(one, options)
    ]


def _model(gateway: GatewayRef, routers: Sequence[Router], options: Options) -> Emitted:
    header = {"name": options.model_header, "value": MODEL}
    return made(
        API,
        "AgentgatewayPolicy",
        gateway.namespace,
        name_of(gateway.name, gateway.section, "model"),
        *_sources(routers),
        spec={
            "targetRefs": [_target(gateway.name, gateway.section)],
            "traffic": {"phase": "PreRouting", "transformation": {"request": {"set": [header]}}},
        },
    )


def _log(namespace: str, name: str, routers: Sequence[Router], options: Options) -> Emitted:
    """What it has not by itself; what cannot be worked out for a request is left out of its line."""
    teams = sorted({one.access.jwt.team_header for one in routers if one.access})
    added = [
        ("model", f'request.headers["{options.model_header}"]'),
        ("tokens.input", "llm.inputTokens"),
        ("tokens.output", "llm.outputTokens"),
        *(("team" if one == teams[0] else f"team.{one}", f'request.headers["{one}"]') for one in teams),
    ]
    attributes = [{"name": key, "expression": expression} for key, expression in added]
    return made(
        API,
        "AgentgatewayPolicy",
        namespace,
        name_of(name, "audit"),
        *_sources(routers),
        spec={
            "targetRefs": [_target(name)],
            "frontend": {"accessLog": {"attributes": {"add": attributes}}},
        },
    )


def _sources(routers: Iterable[Router]) -> Iterator[Any]:
    return (one.origin.at("") for one in routers)


def _target(name: str, section: str = "") -> Object:
    found: Object = {"group": GATEWAY_API, "kind": "Gateway", "name": name}
    return {**found, "sectionName": section} if section else found


# --- what others have there --------------------------------------------------------------------------------


class Theirs:
    """Policies that are not ours, the oldest first; looked for once."""

    def __init__(self, documents: Documents) -> None:
        every = documents.of("AgentgatewayPolicy", GROUP)
        self.policies = [one for one in every if one.labels.get(MANAGED_BY) != MANAGER]
        self._documents = documents

    def of(self, gateway: GatewayRef) -> Iterator[Document]:
        """Those for ``gateway``, or for a listener of it that routes of it come in by."""
        found = self._documents.find("Gateway", gateway.namespace, gateway.name)
        thing = Thing("Gateway", gateway.namespace, gateway.name, found.labels if found else {})
        for one in self.policies:
            sections = attachment.sections(one, [thing])
            if sections & {"", gateway.section} or (sections and not gateway.section):
                yield one


def _transforming(gateway: GatewayRef, theirs: Theirs) -> list[Document]:
    return [one for one in theirs.of(gateway) if _transforms(one)]


def _transforms(policy: Document) -> bool:
    traffic = Node(policy.content)["spec"]["traffic"]
    return traffic["phase"].text == "PreRouting" and traffic["transformation"].is_there


def _says_model(policy: Document, options: Options) -> bool:
    headers = Node(policy.content)["spec"]["traffic"]["transformation"]["request"]["set"]
    return any(one["name"].text.lower() == options.model_header for one in headers)
