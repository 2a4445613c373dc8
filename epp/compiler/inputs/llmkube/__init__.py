"""LLMKube's InferenceServices and ModelRouters, with the Models and metal agents behind them.

Place:   one of the compiler's inputs. objects.py is what is read of them, claiming.py which of them are ours,
         known.py finds them, servers.py and providers.py are whom a backend leads to, backends.py, rules.py
         and policy.py the parts of a ModelRouter, routers.py the whole, names.py what is left of one with an
         error; status.py is what is written back.
Rule:    the meaning is that of LLMKube's router-proxy. What is wrong with one object is a finding on it, and
         all others are read.
Source:  LLMKube v0.9.19, and of later versions ``backends[].resolution`` and ``dataPlane: AgentGateway``.
"""

from collections.abc import Collection, Iterator

from epp.compiler.documents import Documents
from epp.compiler.inputs import Reading
from epp.compiler.inputs.llmkube.claiming import is_claimed
from epp.compiler.inputs.llmkube.known import Known
from epp.compiler.inputs.llmkube.names import faulty
from epp.compiler.inputs.llmkube.routers import asks, exposure, loops, read_exposed, read_router, services
from epp.compiler.inputs.llmkube.servers import Servers
from epp.compiler.intent import Router
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options

__all__ = ["read"]


def read(documents: Documents, options: Options, call: Call = plainly, now: float | None = None) -> Reading:
    """All claimed objects that are to be reached at a gateway. ``now``: as in Known."""
    known = Known(documents, options, call, now)
    servers = Servers(known, options)
    routers = [*_exposed(known, servers, options), *_routers(known, servers, documents, options)]
    findings = dict.fromkeys(known.findings)
    failed = {one.origin.object for one in findings if one.is_error}
    return Reading(
        routers=tuple(one for one in routers if one.origin.object not in failed),
        findings=tuple(findings),
        faulty=tuple(_faulty(known, failed, options)),
    )


def _faulty(known: Known, failed: Collection[str], options: Options) -> Iterator[Router]:
    for document in (*known.all("InferenceService"), *known.all("ModelRouter")) if failed else ():
        if document.origin.object in failed and is_claimed(document, options):
            yield from faulty(document, options)


def _exposed(known: Known, servers: Servers, options: Options) -> Iterator[Router]:
    for document in known.all("InferenceService"):
        key = document.namespace, document.name
        is_asked = is_claimed(document, options) and exposure(servers.spec(key)) is not None
        served = servers.get(key) if is_asked else None
        router = known.ask(read_exposed, document, served, options) if served else None
        if router is not None:
            yield router


def _routers(known: Known, servers: Servers, documents: Documents, options: Options) -> Iterator[Router]:
    for document in known.all("ModelRouter"):
        if not (is_claimed(document, options) and known.ask(asks, document, options)):
            continue
        served = [servers.get((document.namespace, name)) for name in services(document)]
        router = known.ask(read_router, document, options, *served)
        if router is not None:
            gateway = documents.find("Gateway", router.gateway.namespace, router.gateway.name)
            _ = gateway and known.ask(loops, router, gateway)
            yield router
