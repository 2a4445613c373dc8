"""The compiler's way in: objects and a target, to objects and findings.

Rule:    an object with an error makes nothing new. What is in the cluster for it (``failed``) and not wanted
         now stays, and kinds in emission.FROZEN are not even changed. All others are compiled as if it were
         not there. Of a part with an error the names stay: they are refused, since a pattern or a default of
         the same object would have them else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from epp.compiler import claims, pools, remains
from epp.compiler.documents import CLUSTER_WIDE, Document, Documents
from epp.compiler.emission import APPLY_ORDER, Emission, Emitted, made
from epp.compiler.findings import Finding, Severity, error
from epp.compiler.inputs import Reading, fleet, llmkube
from epp.compiler.intent import Intent
from epp.compiler.marks import marked
from epp.compiler.options import Options, Target
from epp.compiler.targets import agentgateway, envoy_ai_gateway, gateway_api

Emit: TypeAlias = Callable[[Intent, Documents, Options], Emission]

_READERS = (llmkube.read, fleet.read)
_TARGETS: Mapping[Target, Emit] = {
    Target.ENVOY_AI_GATEWAY_0_7: envoy_ai_gateway.emit,
    Target.ENVOY_AI_GATEWAY_1_1: envoy_ai_gateway.emit,
    Target.AGENTGATEWAY: agentgateway.emit,
    Target.GATEWAY_API: gateway_api.emit,
}
_GRAVITY = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


@dataclass(frozen=True, slots=True)
class Compiled:
    """``objects``: in the order in which to apply them. ``failed``: ``Origin.object`` of inputs with an
    error, and of those with a part that has one.

    ``intent``: what was understood, for whoever reports it.
    """

    objects: tuple[Emitted, ...]
    findings: tuple[Finding, ...]
    failed: frozenset[str]
    intent: Intent


def compile_documents(documents: Sequence[Document], options: Options) -> Compiled:
    """Everything in ``documents`` that is an input, for ``options.target``; the rest tells what is there."""
    given = Documents([_placed(one, options.namespace) for one in documents])
    readings = [read(given, options) for read in _READERS]
    return compile_readings(readings, given, options)


def _placed(document: Document, namespace: str) -> Document:
    """In a namespace, as an API server would have it."""
    if document.namespace or document.kind in CLUSTER_WIDE:
        return document
    meta = {**document.metadata, "namespace": namespace}
    return replace(document, content={**document.content, "metadata": meta})


def compile_readings(readings: Sequence[Reading], given: Documents, options: Options) -> Compiled:
    """What was understood of ``given``, for ``options.target``."""
    findings = [one for reading in readings for one in reading.findings]
    routers = [router for reading in readings for router in reading.routers]
    objectives = [one for reading in readings for one in reading.objectives]
    failed, given_up = frozenset[str](), frozenset[str]()
    while True:  # a target may refuse what the others were settled with; each turn serves less
        failed |= remains.spread(_failed(findings), routers)
        routers = [remains.left(one, failed, given_up) for one in routers if one.origin.object not in failed]
        settled, told = claims.settle(routers)
        live = {one.origin.object for one in settled}
        wanted = (one for one in objectives if one.origin.object not in failed)
        intent = Intent(settled, tuple(one for one in wanted if one.origin.whole in live))
        emission = _TARGETS[options.target](intent, given, options)
        objects, clashes = _distinct([*emission.objects, *_objectives(intent)])
        new = [*told, *emission.findings, *clashes, *_notes(intent, objects)]
        stuck = _failed(new) & remains.refused(intent, failed)
        if _failed(new) <= failed and not stuck:
            break
        findings += [one for one in new if one.is_error]
        findings += [told for one in routers for told in remains.exposed(one, stuck)]
        given_up |= stuck
    findings += [*new, *remains.notes(intent, failed)]
    owners = _owners(intent)
    return Compiled(
        tuple(marked(one, options, owners) for one in sorted(objects, key=_order)),
        tuple(sorted(dict.fromkeys(findings), key=_gravest_first)),
        failed | {one.origin.whole for one in findings if one.is_error},
        intent,
    )


def _failed(findings: Sequence[Finding]) -> frozenset[str]:
    return frozenset(one.origin.object for one in findings if one.is_error)


def _owners(intent: Intent) -> Mapping[str, str]:
    """Who answers for an input, where it says so; by ``Origin.object``."""
    rules = (rule for router in intent.routers for rule in router.rules)
    return {rule.origin.object: rule.owner for rule in rules if rule.owner}


def _notes(intent: Intent, objects: Sequence[Emitted]) -> list[Finding]:
    made = {one.key for one in objects}
    rules = (rule for router in intent.routers for rule in router.rules)
    return [told for rule in rules if (told := pools.shares_by_load(rule, made)) is not None]


def _objectives(intent: Intent) -> list[Emitted]:
    return [
        made(
            "llm-d.ai/v1alpha2",
            "InferenceObjective",
            one.namespace,
            one.name,
            one.origin.at(""),
            spec={"priority": one.priority, "poolRef": {"name": one.pool}},
        )
        for one in intent.objectives
    ]


def _distinct(objects: Sequence[Emitted]) -> tuple[list[Emitted], list[Finding]]:
    """One of each name. Two that differ are two inputs that want one thing: the older has it."""
    found: dict[tuple[str, str, str], Emitted] = {}
    clashes = []
    for one in sorted(objects, key=lambda one: min(source.age for source in one.sources)):
        first = found.setdefault(one.key, one)
        if first is one:
            continue
        if first.document != one.document:
            kind, namespace, name = one.key
            clashes.append(
                error(
                    "NameTaken",
                    one.sources[0],
                    f"{kind} {namespace}/{name} is made for {first.sources[0].object} already",
                    "give one of the two another name",
                )
            )
            continue
        sources = tuple(dict.fromkeys((*first.sources, *one.sources)))
        found[one.key] = Emitted(first.document, sources)
    return list(found.values()), clashes


def _order(one: Emitted) -> tuple[int, str, str]:
    kind, namespace, name = one.key
    return APPLY_ORDER.index(kind), namespace, name


def _gravest_first(finding: Finding) -> tuple[int, str, str, str]:
    origin = finding.origin
    return _GRAVITY[finding.severity], origin.object, origin.field, finding.code
