"""LLMKube's InferenceServices and ModelRouters, with the Models and metal agents behind them.

Place:   one of the compiler's inputs. objects.py is what is read of them, claiming.py which of them are ours,
         known.py finds them, servers.py and providers.py are whom a backend leads to, backends.py, rules.py
         and policy.py the parts of a ModelRouter, routers.py the whole; status.py is what is written back.
Rule:    the meaning is that of LLMKube's router-proxy. What is wrong with one object is a finding on it, and
         all others are read.
Source:  LLMKube v0.9.19, and of later versions ``backends[].resolution`` and ``dataPlane: AgentGateway``.
"""

from collections.abc import Iterator

from epp.compiler.documents import Documents
from epp.compiler.inputs import Reading
from epp.compiler.inputs.llmkube.claiming import is_claimed
from epp.compiler.inputs.llmkube.known import Known
from epp.compiler.inputs.llmkube.routers import exposure, is_for_gateway, read_exposed, read_router
from epp.compiler.inputs.llmkube.servers import Servers
from epp.compiler.intent import Router
from epp.compiler.options import Options

__all__ = ["read"]


def read(documents: Documents, options: Options) -> Reading:
    """All claimed objects that are to be reached at a gateway."""
    known = Known(documents, options)
    servers = Servers(known, options)
    routers = [*_exposed(known, servers, options), *_routers(known, servers, documents, options)]
    findings = dict.fromkeys(one for told in known.told for one in told.findings)
    failed = {one.origin.object for one in findings if one.is_error}
    return Reading(
        routers=tuple(one for one in routers if one.origin.object not in failed), findings=tuple(findings)
    )


def _exposed(known: Known, servers: Servers, options: Options) -> Iterator[Router]:
    for document in known.all("InferenceService"):
        key = document.namespace, document.name
        how = exposure(servers.spec(key)) if is_claimed(document, options) else None
        served = servers.get(key) if how else None
        if how and served:
            yield from read_exposed(document, served, how, options, known.tell(document))


def _routers(known: Known, servers: Servers, documents: Documents, options: Options) -> Iterator[Router]:
    for document in known.all("ModelRouter"):
        told = known.tell(document)
        if is_claimed(document, options) and is_for_gateway(document, options, told):
            yield from read_router(document, servers, documents, options, told)
