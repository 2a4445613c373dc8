"""Rounds: compile what people declare, see what differs, write it; again whenever something changes.

Place:   run by epp.commands.controller.
Ignores: what the objects should be, and how the API is asked.
Rule:    a round begins from what there is, never from what an earlier one did, so that a controller killed at
         any step is continued by the next one. With nothing to change nothing is written. Only a leader
         writes.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from epp.compiler import marks
from epp.compiler.compile import Compiled
from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Origin, error, warning
from epp.compiler.memory import Memory
from epp.compiler.options import Options
from epp.controller import leftovers
from epp.controller.carrying import Ended, Fate, Report, carry_out
from epp.controller.cluster import Cluster
from epp.controller.difference import Difference, Doubt, Key, Verb, difference, key_of, parts_of, title
from epp.controller.events import Events
from epp.controller.fields import Object, bare
from epp.controller.files import Files
from epp.controller.garbage import looked_for_by_hand
from epp.controller.metrics import ControllerMetrics
from epp.controller.pace import Pace
from epp.controller.statuses import Statuses, wanted_statuses
from epp.controller.watching import Watching
from epp.runtime.kubernetes.store import ApiFault

logger = logging.getLogger("epp.controller")

QUIET, GATHERED = 0.01, 0.5
"""[s] A round begins when nothing has changed for so long, or when something has for so long."""
RESYNC = 60.0
"""[s] A round without a reason: heartbeats have not come, or an event was missed."""
LOOK = 1.0
"""[s] Between two looks at whether we lead by now."""


class Leader(Protocol):
    """What is needed of epp.runtime.kubernetes.lease."""

    @property
    def is_leader(self) -> bool: ...


class Compile(Protocol):
    """epp.compiler.compile.compile_documents."""

    def __call__(
        self, documents: Sequence[Document], options: Options, /, *, memory: Memory, now: float
    ) -> Compiled: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a controller is made of."""

    watching: Watching
    files: Files
    cluster: Cluster
    compile: Compile
    statuses: Statuses
    events: Events
    metrics: ControllerMetrics
    leader: Leader | None
    options: Options
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    chance: random.Random


@dataclass(slots=True)
class _State:
    """What is remembered between rounds, and may be forgotten at any time."""

    memory: Memory = field(default_factory=Memory)
    """Of compilations."""
    compared: Memory = field(default_factory=Memory)
    """And of differences."""
    told_of: Memory = field(default_factory=Memory)
    """And of statuses."""
    documents: tuple[Document, ...] | None = None
    compiled: Compiled | None = None
    settled: dict[Key, tuple[Object, Object]] = field(default_factory=dict)
    told: frozenset[Finding] = frozenset()


class Controller:
    """``run`` it, and call ``changed`` whenever something has."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._changes = 0
        self._due = 0.0
        self._state = _State()
        self.trouble: tuple[str, ...] = ()
        """What keeps things from being as wanted, for /readyz."""
        self.errors = 0
        """Findings among the inputs of which nothing is made, as of the latest round; of a leader."""
        self.is_synced = False
        """Everything has been listed once."""

    def changed(self) -> None:
        """Something may have to be done."""
        self._changes += 1
        self._event.set()

    async def run(self, parts: Parts) -> None:
        """Keep it all as wanted."""
        pace = Pace(parts.chance)
        with looked_for_by_hand() as garbage:
            while True:
                await self.round(parts, pace)
                garbage.look(parts.clock())
                await self._until_due(parts.clock)

    async def round(self, parts: Parts, pace: Pace) -> None:
        """See to it once."""
        began = parts.clock()
        self._due = began + RESYNC
        try:
            await _Round(parts, self._state, pace, self._tell).go(self)
        except Exception as fault:
            defect = _defect(fault)
            if defect not in self.trouble:
                logger.exception("defect in a round: tried again")
            parts.metrics.failures += 1
            self._tell((defect,))
            self.again_at(began + LOOK * 10)

    def again_at(self, when: float) -> None:
        """A round is due then, if not earlier."""
        self._due = min(self._due, when)

    async def _until_due(self, clock: Callable[[], float]) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._due - clock())):
                await self._event.wait()
        except TimeoutError:
            return
        since, seen = clock(), -1
        while seen != self._changes and clock() - since < GATHERED:
            seen = self._changes
            await asyncio.sleep(QUIET)
        self._event.clear()

    def _tell(self, trouble: tuple[str, ...]) -> None:
        """Each line once for each change."""
        for line in trouble:
            if line not in self.trouble:
                logger.warning("not as it should be", extra={"fields": {"error": line}})
        for line in self.trouble:
            if line not in trouble:
                logger.info("settled", extra={"fields": {"was": line}})
        self.trouble = trouble


class _Round:
    def __init__(
        self, parts: Parts, state: _State, pace: Pace, tell: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._parts, self._state, self._pace, self._tell = parts, state, pace, tell

    async def go(self, controller: Controller) -> None:
        parts = self._parts
        began = parts.clock()
        faults = [*parts.watching.faults_told(), *filter(None, [parts.files.fault])]
        is_current = parts.watching.is_current and not parts.files.fault
        parts.metrics.is_leading = self._leads()
        controller.is_synced = controller.is_synced or parts.watching.is_complete
        if not parts.watching.is_complete or not self._leads():
            self._tell(tuple(faults))
            controller.errors = 0
            controller.again_at(began + LOOK)
            return
        documents = (*parts.watching.documents(), *parts.files.documents)
        compiled = await self._compiled(documents)
        try:
            found = await self._confirmed(compiled)
        except ApiFault as fault:
            parts.metrics.failures += 1
            self._tell((*faults, f"Kubernetes API: {fault}"))
            controller.again_at(parts.clock() + LOOK)
            return
        report = await self._carried_out(found)
        findings = [*compiled.findings, *_conflicts(found, report, compiled), *self._outside(compiled)]
        findings += leftovers.told(found.left, marks.inventory(parts.options))
        findings += parts.statuses.findings
        controller.errors = sum(one.is_error for one in findings)
        if not report.stopped:
            await self._report(compiled, documents, findings, _errors(found, report))
        self._forget({one.key for one in compiled.objects} | {step.key for step in found.steps})
        unfinished = [one for one in report.ended if one.fate is not Fate.DONE]
        parts.metrics.waiting = len(unfinished)
        parts.metrics.conflicts = len(found.conflicts) + len(report.of(Fate.TAKEN))
        parts.metrics.ended(parts.clock() - began)
        faults += [_line(one) for one in report.of(Fate.FAILED)]
        faults += filter(None, [report.stopped, parts.statuses.fault])
        self._tell(tuple(dict.fromkeys(faults)))
        # since it began: what became due meanwhile is due
        controller.again_at(min(parts.statuses.next(began), parts.events.next(began)))
        if is_current and not unfinished and not found.conflicts and not parts.statuses.fault:
            parts.metrics.last_success = parts.wall_clock()
            return
        parts.metrics.failures += 1
        controller.again_at(parts.clock() + LOOK if report.stopped else self._pace.next(began))

    def _leads(self) -> bool:
        return self._parts.leader is None or self._parts.leader.is_leader

    async def _compiled(self, documents: tuple[Document, ...]) -> Compiled:
        state = self._state
        if state.compiled is None or state.documents != documents:
            # 1,000 models take a second: leases are renewed meanwhile
            compiled = await asyncio.to_thread(
                self._parts.compile,
                documents,
                self._parts.options,
                memory=state.memory,
                now=self._parts.wall_clock(),
            )
            state.documents, state.compiled = documents, compiled
            self._parts.metrics.compiled(compiled.objects, compiled.findings)
        return state.compiled

    async def _confirmed(self, compiled: Compiled) -> Difference:
        """Where something would go, as it is when the API has said once more what kinds there are."""
        found, absent = self._difference(compiled), self._parts.watching.absent
        if any(step.verb is Verb.DELETE for step in found.steps):
            await self._parts.watching.confirm()
        return found if self._parts.watching.absent == absent else self._difference(compiled)

    def _difference(self, compiled: Compiled) -> Difference:
        parts = self._parts
        kinds = set(parts.watching.absent)
        if not parts.files.is_read:
            kinds.add("Fleet")
        with self._state.compared as call:
            return difference(
                [one for one in compiled.objects if parts.watching.covers(one.key)],
                parts.watching.live(),
                inventory=call(marks.inventory, parts.options),
                doubt=Doubt(failed=compiled.failed, kinds=kinds),
                settled=self._state.settled,
                call=call,
            )

    async def _carried_out(self, found: Difference) -> Report:
        now = self._parts.clock()
        due = [(step, self._pace.due(step) <= now) for step in found.steps]
        return await carry_out(
            [step for step, is_due in due if is_due],
            self._parts.cluster,
            blocked={source for conflict in found.conflicts for source in parts_of(conflict.sources)},
            held=[self._pace.held(step) for step, is_due in due if not is_due],
            on_end=self._ended,
        )

    def _ended(self, ended: Ended) -> None:
        step, now, settled = ended.step, self._parts.clock(), self._state.settled
        if ended.fate in {Fate.FAILED, Fate.TAKEN} and not ended.is_away:
            self._pace.failed(step, now, ended.why, ended.fate, ended.fix)
        if ended.fate is not Fate.DONE:
            return
        known = settled.pop(step.key, None)
        if ended.result is not None and step.wanted is not None:
            settled[step.key] = (step.wanted, bare(ended.result))
        self._parts.watching.wrote(step.key, step.live, ended.result)
        fields = {"verb": step.verb.value, "object": step.title}
        if step.verb is Verb.CHANGE and known is not None and known[0] == step.wanted:
            if self._pace.repaired(step, now):
                logger.warning("somebody else goes on changing an object", extra={"fields": fields})
            else:
                logger.info("drift repaired", extra={"fields": fields})
        else:
            self._pace.done(step)
            logger.info("written", extra={"fields": fields})

    def _forget(self, known: Collection[Key]) -> None:
        """All but what is wanted or still to go: names come and go for as long as the process lives."""
        self._pace.keep(known)
        for key in [key for key in self._state.settled if key not in known]:
            del self._state.settled[key]

    def _outside(self, compiled: Compiled) -> Iterator[Finding]:
        for one in compiled.objects:
            if not self._parts.watching.covers(one.key):
                yield error(
                    "NamespaceNotWatched",
                    one.sources[0],
                    f"{title(one.key)} is not made: its namespace is none of --namespace",
                    f"add --namespace {one.key[1]}",
                )

    async def _report(
        self,
        compiled: Compiled,
        documents: Sequence[Document],
        findings: Sequence[Finding],
        errors: Mapping[str, str],
    ) -> None:
        parts, state = self._parts, self._state
        for one in findings:
            if one not in state.told:
                level = logging.WARNING if one.is_error else logging.INFO
                logger.log(level, "finding", extra={"fields": _fields(one)})
        state.told = frozenset(findings)
        if self._leads():
            declared = {key_of(one): one for one in parts.watching.declared()}  # with our own word in them
            around = [one for one in documents if (one.kind, one.namespace, one.name) not in declared]
            with state.told_of as call:
                wanted = wanted_statuses(
                    compiled,
                    [*around, *(call(Document, one) for one in declared.values())],
                    parts.options,
                    live=parts.watching.live(),
                    errors=errors,
                    missing=parts.watching.missing,
                    call=call,
                )
            await parts.statuses.tell(wanted, declared.values())
            await parts.events.tell(one for one in findings if one.is_error)


def _defect(fault: Exception) -> str:
    """The one inside where several tasks had to end for it."""
    while isinstance(fault, ExceptionGroup):
        fault = fault.exceptions[0]
    return f"defect: {type(fault).__name__}: {fault}"


def _errors(found: Difference, report: Report) -> dict[str, str]:
    """By input, why something of it could not be written."""
    errors: dict[str, str] = {}
    for conflict in found.conflicts:
        for source in conflict.sources:
            errors.setdefault(source, f"{title(conflict.key)}: {conflict.why}")
    for fates in ((Fate.FAILED, Fate.TAKEN), (Fate.SKIPPED,)):
        for one in report.of(*fates):
            for source in one.step.sources:
                errors.setdefault(source, _line(one))
    return errors


def _conflicts(found: Difference, report: Report, compiled: Compiled) -> Iterator[Finding]:
    origins = {source.object: source for one in compiled.objects for source in one.sources}
    taken = [(one.key, one.sources, one.why, one.fix) for one in found.conflicts]
    taken += [(one.step.key, one.step.sources, one.why, one.fix) for one in report.of(Fate.TAKEN)]
    for key, sources, why, fix in taken:
        for origin in _known(origins, sources):
            yield error("ObjectTaken", origin, f"{title(key)} is not written: {why}", fix)
    for key in found.kept:
        yield warning(
            "ObjectKept",
            Origin(*key),
            "is not wanted any more, and stays as long as what it was made for has an error or is not known",
            "mend or delete what fleet-epp.dev/source names",
        )


def _known(origins: Mapping[str, Origin], sources: Iterable[str]) -> list[Origin]:
    return [origins[source] for source in sorted(sources) if source in origins]


def _line(ended: Ended) -> str:
    return f"{ended.step.verb} {ended.step.title}: {ended.why}"


def _fields(finding: Finding) -> dict[str, Any]:
    told = {**finding.words, "place": finding.origin.place}
    return {key: value for key, value in told.items() if value}
