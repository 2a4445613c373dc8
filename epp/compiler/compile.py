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
from epp.compiler.findings import Finding, error
from epp.compiler.inputs import Reading, fleet, llmkube
from epp.compiler.inputs.fleet.file import API_VERSION
from epp.compiler.intent import Intent, Objective
from epp.compiler.kinds import LLMKUBE
from epp.compiler.marks import marked, people
from epp.compiler.memory import Call, Memory, plainly
from epp.compiler.options import Options, Target
from epp.compiler.targets import agentgateway, envoy_ai_gateway, gateway_api

Emit: TypeAlias = Callable[[Intent, Documents, Options, Call], Emission]

_TARGETS: Mapping[Target, Emit] = {
    Target.ENVOY_AI_GATEWAY_0_7: envoy_ai_gateway.emit,
    Target.ENVOY_AI_GATEWAY_1_1: envoy_ai_gateway.emit,
    Target.AGENTGATEWAY: agentgateway.emit,
    Target.GATEWAY_API: gateway_api.emit,
}
_PLACES = {kind: place for place, kind in enumerate(APPLY_ORDER)}
DECLARED = frozenset({LLMKUBE, API_VERSION.partition("/")[0]})
"""Groups of inputs: of all else, which stands around, no target sees a change that is none."""


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


def compile_documents(
    documents: Sequence[Document],
    options: Options,
    *,
    memory: Memory | None = None,
    now: float | None = None,
) -> Compiled:
    """Everything in ``documents`` that is an input, for ``options.target``; the rest tells what is there.

    ``memory``: of the compilations before, with the same ``options``. ``now`` [unix s]: None where heartbeats
    are not to be judged, as in files.
    """
    with Memory() if memory is None else memory as call:
        given = Documents([_in_namespace(one, options, call) for one in documents])
        readings = [llmkube.read(given, options, call, now), fleet.read(given, options, call)]
        return compile_readings(readings, given, options, call)


def _in_namespace(document: Document, options: Options, call: Call) -> Document:
    """As an API server would have it."""
    if document.namespace or document.kind in CLUSTER_WIDE:
        return document
    return call(_placed, document, options.namespace)


def _placed(document: Document, namespace: str) -> Document:
    meta = {**document.metadata, "namespace": namespace}
    return replace(document, content={**document.content, "metadata": meta})


def _around(*documents: Document) -> Documents:
    return Documents(documents)


def compile_readings(
    readings: Sequence[Reading], given: Documents, options: Options, call: Call = plainly
) -> Compiled:
    """What was understood of ``given``, for ``options.target``."""
    findings = [one for reading in readings for one in reading.findings]
    routers = [router for reading in readings for router in reading.routers]
    declared = [router for reading in readings for router in (*reading.routers, *reading.faulty)]
    objectives = [one for reading in readings for one in reading.objectives]
    failed, given_up = frozenset[str](), frozenset[str]()
    around = call(_around, *(one for one in given if one.group not in DECLARED))
    while True:  # a target may refuse what the others were settled with; each turn serves less
        failed |= remains.spread(_failed(findings), routers)
        routers = [remains.left(one, failed, given_up) for one in routers if one.origin.object not in failed]
        settled, told = claims.settle(routers, remains.faulty(declared, routers))
        live = {one.origin.object for one in settled}
        wanted = (one for one in objectives if one.origin.object not in failed)
        intent = Intent(settled, tuple(one for one in wanted if one.origin.whole in live))
        emission = _TARGETS[options.target](intent, around, options, call)
        objects, clashes = _distinct([*emission.objects, *_objectives(intent, call)], call)
        new = [*told, *emission.findings, *clashes, *_notes(intent, objects, call)]
        stuck = _failed(new) & remains.refused(intent, failed)
        if _failed(new) <= failed and not stuck:
            break
        findings += [one for one in new if one.is_error]
        findings += [told for one in routers for told in remains.exposed(one, stuck)]
        given_up |= stuck
    findings += [*new, *remains.notes(intent, failed)]
    owners = _owners(intent)
    return Compiled(
        tuple(call(marked, one, options, *people(one, owners)) for one in sorted(objects, key=_order)),
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


def _notes(intent: Intent, objects: Sequence[Emitted], call: Call) -> list[Finding]:
    made = {one.key for one in objects}
    told = [one for router in intent.routers for one in call(pools.shared_by_load, router)]
    return [finding for pool, finding in told if pool in made]


def _objectives(intent: Intent, call: Call) -> list[Emitted]:
    return [call(_objective, one) for one in intent.objectives]


def _objective(one: Objective) -> Emitted:
    return made(
        "llm-d.ai/v1alpha2",
        "InferenceObjective",
        one.namespace,
        one.name,
        one.origin.at(""),
        spec={"priority": one.priority, "poolRef": {"name": one.pool}},
    )


def _distinct(objects: Sequence[Emitted], call: Call) -> tuple[list[Emitted], list[Finding]]:
    """One of each name."""
    found: dict[tuple[str, str, str], list[Emitted]] = {}
    for one in objects:
        found.setdefault(one.key, []).append(one)
    kept, clashes = list[Emitted](), list[Finding]()
    for same in found.values():
        first, told = call(_first, *same) if len(same) > 1 else (same[0], ())
        kept.append(first)
        clashes += told
    return kept, clashes


def _first(*same: Emitted) -> tuple[Emitted, Sequence[Finding]]:
    """Of objects of one name. Two that differ are two inputs that want one thing: the older has it."""
    first, *others = sorted(same, key=lambda one: min(source.age for source in one.sources))
    kind, namespace, name = first.key
    clashes = [
        error(
            "NameTaken",
            one.sources[0],
            f"{kind} {namespace}/{name} is made for {first.sources[0].object} already",
            "give one of the two another name",
        )
        for one in others
        if one.document != first.document
    ]
    alike = (first, *(one for one in others if one.document == first.document))
    sources = tuple(dict.fromkeys(source for one in alike for source in one.sources))
    return Emitted(first.document, sources), clashes


def _order(one: Emitted) -> tuple[int, str, str]:
    kind, namespace, name = one.key
    return _PLACES[kind], namespace, name


def _gravest_first(finding: Finding) -> tuple[int, str, str, str]:
    origin = finding.origin
    return finding.severity.rank, origin.object, origin.field, finding.code
