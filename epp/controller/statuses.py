"""``status.gateway`` and GatewayReady of LLMKube's objects that we serve: written when they change.

Place:   called by loop.py at the end of a round; what they say comes from epp.compiler.inputs.llmkube.
Rule:    server-side apply with a field manager of its own: what LLMKube writes stays LLMKube's. Of an object
         that we do not serve any more our part goes. Who goes on writing our part is told of, and not fought;
         what is refused is tried less and less often.
"""

import asyncio
import datetime as dt
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from epp.compiler.compile import Compiled
from epp.compiler.documents import Document, Documents
from epp.compiler.emission import ROUTES
from epp.compiler.findings import Finding, Origin, warning
from epp.compiler.inputs.llmkube.claiming import is_claimed
from epp.compiler.inputs.llmkube.status import CONDITION, Outcome, words
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options
from epp.controller.carrying import AT_ONCE, is_away
from epp.controller.cluster import Cluster, Deposed
from epp.controller.difference import Key, Step, Verb, key_of, title
from epp.controller.fields import Object
from epp.controller.pace import LONGEST, Pace
from epp.runtime.kubernetes.store import ApiFault, Expired

logger = logging.getLogger("epp.controller")

STATUS_MANAGER = "fleet-epp-controller-status"
AWAY_SECONDS = 10.0
"""Until an API is asked again that is away."""


def wanted_statuses(
    compiled: Compiled,
    documents: Iterable[Document],
    options: Options,
    *,
    live: Mapping[Key, Object],
    errors: Mapping[str, str],
    missing: frozenset[str],
    call: Call = plainly,
) -> dict[Key, Mapping[str, Any]]:
    """Our part of the status of each claimed object. ``errors``: by input, why something is not written.

    ``missing``: kinds that the cluster does not have.
    """
    outcomes: dict[str, Outcome] = {}
    for one in compiled.objects:
        for source in one.sources:
            outcomes.setdefault(source.object, Outcome(error=errors.get(source.object, "")))
            if one.key[0] in ROUTES and (refused := why_refused(one.key, live.get(one.key))):
                outcomes[source.object] = Outcome(errors.get(source.object, ""), refused)
    told = words(
        *(Documents(tuple(documents)), options, compiled.intent.routers, compiled.findings),
        outcomes=outcomes,
        missing=missing & {one.key[0] for one in compiled.objects},
        call=call,
    )
    return {
        (word.origin.kind, word.origin.namespace, word.origin.name): {
            **({} if word.gateway is None else {"gateway": word.gateway}),
            "conditions": [word.condition],
        }
        for word in told
    }


def why_refused(key: Key, live: Object | None) -> str:
    """Why the gateway does not serve a route; empty: it does, as it says itself."""
    if live is None:
        return f"{title(key)} has not been applied yet"
    status = live.get("status") or {}
    conditions = [*(status.get("conditions") or ())]
    for parent in status.get("parents") or ():
        conditions += parent.get("conditions") or ()
    # Envoy AI Gateway has NotAccepted for no
    accepted = [
        {**one, "status": "False"}
        if one.get("type") == "NotAccepted" and one.get("status") == "True"
        else one
        for one in conditions
        if one.get("type") in {"Accepted", "NotAccepted"}
    ]
    if not accepted:
        return f"{title(key)}: no gateway has accepted it yet"
    bad = next((one for one in accepted if one.get("status") != "True"), None)
    return "" if bad is None else f"{title(key)}: {bad.get('message') or bad.get('reason') or 'refused'}"


@dataclass(frozen=True, slots=True)
class _Written:
    """``words``: what was to be said. ``before``: the version it was written to. ``part``: what came of it,
    as the API may respell a value or leave out what it does not know."""

    words: Mapping[str, Any]
    before: str
    part: Mapping[str, Any]


class Statuses:
    """``today``: the wall clock; ``clock`` [s]. ``fault`` and ``findings``: of the last round."""

    def __init__(
        self,
        cluster: Cluster,
        options: Options,
        *,
        today: Callable[[], dt.datetime],
        clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self.fault = ""
        self._cluster, self._options = cluster, options
        self._today, self._clock, self._chance = today, clock, chance
        self._pace = Pace(chance)
        self._written: dict[Key, _Written] = {}
        self._fights: dict[Key, tuple[float, Finding]] = {}
        """Since when nothing was seen of it, and what is to be told."""
        self._faults: dict[Key, str] = {}
        self._stopped = ""
        self._again = math.inf

    @property
    def findings(self) -> list[Finding]:
        """Of whom somebody else goes on writing our part."""
        return [finding for _, (_, finding) in sorted(self._fights.items())]

    def next(self, now: float) -> float:
        """When something is due that may not be written now; infinity: there is nothing."""
        return min(self._again if self._again > now else math.inf, self._pace.next(now))

    async def tell(self, wanted: Mapping[Key, Mapping[str, Any]], declared: Iterable[Object]) -> None:
        """``wanted``: what our part of a status is to be, by object; ``declared``: those that there are."""
        there = {key_of(live): live for live in declared}
        self._begin(there)
        news = [(live, wanted.get(key)) for key, live in there.items() if self._is_news(key, live, wanted)]
        self._chance.shuffle(news)  # a namespace of which some are refused is left after the first
        slots = asyncio.Semaphore(AT_ONCE)

        async def tell(live: Object, words: Mapping[str, Any] | None) -> None:
            async with slots:
                await self._tell(live, words or {})

        async with asyncio.TaskGroup() as group:
            for live, words in news:
                group.create_task(tell(live, words), name=f"status: {title(key_of(live))}")
        self.fault = self._stopped or _summary(self._faults)

    def _begin(self, there: Mapping[Key, Object]) -> None:
        now = self._clock()
        self._pace.keep({*there, *((kind, namespace, "") for kind, namespace, _ in there)})
        self._written = {key: one for key, one in self._written.items() if key in there}
        self._fights = {
            key: (last, told)
            for key, (last, told) in self._fights.items()
            if key in there and now - last < 2.0 * LONGEST
        }
        self._faults = {
            key: f"status of {title(key)}: {one.message}" for key, (_, one) in self._fights.items()
        }
        self._stopped, self._again = "", math.inf

    def _is_news(self, key: Key, live: Object, wanted: Mapping[Key, Mapping[str, Any]]) -> bool:
        """Something is to be written of it."""
        words, written = wanted.get(key), self._written.get(key)
        if words is None:  # what we have said of it goes
            return _is_written(live) and not is_claimed(Document(live), self._options)
        # the API has not told it yet, or this is how it spells it
        is_there = written is not None and (
            written.words == words
            and (written.before == _version(live) or written.part == _part(words, live))
        )
        return not is_there and not _is_said(words, live.get("status") or {})

    async def _tell(self, live: Object, words: Mapping[str, Any]) -> None:
        """An empty part goes. Not when it is not due, and not when the API is away."""
        step = Step(Verb.CHANGE, key_of(live), frozenset(), words, live)
        scope = Step(Verb.CHANGE, (*step.key[:2], ""), frozenset())
        now = self._clock()
        waits = next((one for one in (step, scope) if self._pace.due(one) > now), None)
        if waits is not None:
            if step.key not in self._faults and (why := self._pace.held(waits).why):
                self._faults[step.key] = why
        elif not self._stopped:
            await self._write(live, step, scope)

    async def _write(self, live: Object, step: Step, scope: Step) -> None:
        words = step.wanted or {}
        ours = self._dated(words, live)
        meta = live["metadata"]
        identity = {"name": meta["name"], "namespace": meta["namespace"]}
        document = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}
        # one without a status takes ours away; an empty one the API would take for null
        document |= {"status": ours} if ours else {}
        try:
            result = await self._applied(document, is_ours=step.key in self._written or _is_written(live))
        except Deposed as deposed:
            self._stopped = str(deposed)
        except (ApiFault, Expired) as fault:
            self._refused(step, scope, fault)
        else:
            self._done(live, step, _Written(words, _version(live), _part(words, result)))
            self._pace.done(scope)

    async def _applied(self, document: Object, *, is_ours: bool) -> Object:
        try:
            return await self._cluster.apply_status(document, STATUS_MANAGER, force=is_ours)
        except ApiFault as fault:
            if is_ours or fault.status != 409:
                raise
            fields = {"object": title(key_of(document)), "was": str(fault)}
            logger.info("somebody else's part of a status is taken over", extra={"fields": fields})
        return await self._cluster.apply_status(document, STATUS_MANAGER, force=True)

    def _done(self, live: Object, step: Step, written: _Written) -> None:
        """It is said. For how long?"""
        before, now = self._written.get(step.key), self._clock()
        self._written[step.key] = written
        if before is None or before.words != written.words:
            self._pace.done(step)
        elif self._pace.repaired(step, now):
            self._fights[step.key] = now, _fight(live)

    def _refused(self, step: Step, scope: Step, fault: ApiFault | Expired) -> None:
        now, status = self._clock(), fault.status if isinstance(fault, ApiFault) else 410
        if is_away(fault):
            self._stopped, self._again = f"no status is written: {fault}", now + AWAY_SECONDS
            return
        why = "" if status == 404 else f"status of {step.title}: {fault}"  # it is gone, or its status is
        self._pace.failed(step, now, why)
        if status == 403 and self._pace.due(scope) <= now:
            self._pace.failed(scope, now, why)
        if why:
            self._faults[step.key] = why

    def _dated(self, status: Mapping[str, Any], live: Object) -> dict[str, Any]:
        """Each condition with the time since when it is so."""
        there = {one.get("type"): one for one in (live.get("status") or {}).get("conditions") or ()}
        now = self._today().strftime("%Y-%m-%dT%H:%M:%SZ")
        dated = dict(status)
        if "conditions" in status:
            dated["conditions"] = [
                {**one, "lastTransitionTime": _since(one, there.get(one["type"]), now)}
                for one in status["conditions"]
            ]
        return dated


def _since(condition: Mapping[str, Any], before: Mapping[str, Any] | None, now: str) -> str:
    is_same = before is not None and before.get("status") == condition["status"]
    return str((before or {}).get("lastTransitionTime") or now) if is_same else now


def _is_written(live: Object) -> bool:
    """Something of its status is ours."""
    return any(
        entry.get("manager") == STATUS_MANAGER and entry.get("fieldsV1", {}).get("f:status")
        for entry in live["metadata"].get("managedFields") or ()
    )


def _fight(live: Object) -> Finding:
    meta = live["metadata"]
    origin = Origin(
        *key_of(live), api_version=str(live["apiVersion"]), uid=str(meta.get("uid", "")), field="status"
    )
    others = sorted(
        {
            str(entry.get("manager"))
            for entry in meta.get("managedFields") or ()
            if entry.get("manager") != STATUS_MANAGER and _has_ours(entry.get("fieldsV1") or {})
        }
    )
    return warning(
        "StatusFought",
        origin,
        f"{', '.join(others) or 'somebody else'} goes on writing status.gateway or {CONDITION}, which"
        " are ours: they are written once in a minute",
        "take its right to write the gateway's kinds away, or set the annotation fleet-epp.dev/claim"
        ' to "false" and leave the object to it',
    )


def _has_ours(fields: Mapping[str, Any]) -> bool:
    status = fields.get("f:status") or {}
    return "f:gateway" in status or any(CONDITION in name for name in status.get("f:conditions") or ())


def _summary(faults: Mapping[Key, str]) -> str:
    told = sorted(set(faults.values()))
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"{told[0]}{more}" if told else ""


def _version(live: Object) -> str:
    return str(live["metadata"].get("resourceVersion", ""))


def _part(words: Mapping[str, Any], live: Object) -> dict[str, Any]:
    """What a status has where ``words`` says something, whenever it was said."""
    status = live.get("status") or {}
    part = {key: status.get(key) for key in words if key != "conditions"}
    names = {one["type"] for one in words.get("conditions") or ()}
    there = {one.get("type"): _timeless(one) for one in status.get("conditions") or ()}
    return {**part, **{f"condition {name}": there.get(name) for name in names}}


def _timeless(condition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in condition.items() if key != "lastTransitionTime"}


def _is_said(ours: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Nothing would change."""
    for key, value in ours.items():
        if key == "conditions":
            known = {one.get("type"): _timeless(one) for one in there.get("conditions") or ()}
            if any(known.get(one["type"]) != one for one in value):
                return False
        elif there.get(key) != value:
            return False
    return True
