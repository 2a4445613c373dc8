"""Events on the objects of people, for what keeps them from being served: each said once.

Place:   called by loop.py with the errors of a round.
Rule:    an Event has a name that follows from what it says, so that a controller that is started again does
         not say it again. An API that takes none is told of in the log, and asked less and less often.
"""

import datetime as dt
import hashlib
import logging
import math
import random
from collections.abc import Callable, Iterable

from epp.compiler.findings import Finding
from epp.controller.carrying import is_away
from epp.controller.cluster import Cluster, Deposed
from epp.controller.difference import Key, Step, Verb, key_of
from epp.controller.fields import FIELD_MANAGER, Object
from epp.controller.pace import Pace
from epp.controller.statuses import AWAY_SECONDS
from epp.runtime.kubernetes.store import ApiFault, Expired

logger = logging.getLogger("epp.controller")

LONGEST = 1024
"""Characters of a message, as the API has it."""
AT_ONCE, PAUSE = 50, 1.0
"""Events of a round, and [s] until the next ones: there may be a thousand when a Gateway goes."""
_OF_ITSELF = frozenset({400, 413, 422})
"""Answers about an Event; others are about who may write it, and where."""


class Events:
    """``today``: the wall clock; ``clock`` [s]."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        today: Callable[[], dt.datetime],
        clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self._cluster = cluster
        self._today, self._clock = today, clock
        self._pace = Pace(chance)
        self._said: set[Key] = set()
        self._again = math.inf

    def next(self, now: float) -> float:
        """When there is something left to say; infinity: there is nothing."""
        return min(self._again if self._again > now else math.inf, self._pace.next(now))

    async def tell(self, findings: Iterable[Finding]) -> None:
        """Those of these that are about an object of the cluster and have not been said, some at a time."""
        events = {key_of(one): one for one in map(self._event, filter(_is_in_cluster, findings))}
        self._said &= events.keys()
        self._pace.keep({*events, *(_scope(key) for key in events)})
        self._again, now = math.inf, self._clock()
        due = [key for key in events if key not in self._said and not self._waits(key, now)]
        for key in due[:AT_ONCE]:
            if not self._waits(key, now) and not await self._post(key, events[key], now):
                return
        if due[AT_ONCE:]:
            self._again = now + PAUSE

    def _waits(self, key: Key, now: float) -> bool:
        return any(self._pace.due(_step(one)) > now for one in (key, _scope(key)))

    async def _post(self, key: Key, event: Object, now: float) -> bool:
        """Whether it may be gone on with."""
        try:
            await self._cluster.post(event)
        except Deposed:
            return False
        except (ApiFault, Expired) as fault:
            if is_away(fault):
                self._again = now + AWAY_SECONDS
                return False
            is_about_it = isinstance(fault, ApiFault) and fault.status in _OF_ITSELF
            self._refused(key if is_about_it else _scope(key), str(fault), now)
            return True
        self._said.add(key)
        self._pace.done(_step(_scope(key)))
        return True

    def _refused(self, key: Key, why: str, now: float) -> None:
        step = _step(key)
        if self._pace.due(step) == 0.0:
            logger.warning("an event cannot be written", extra={"fields": {"error": why}})
        self._pace.failed(step, now, why)

    def _event(self, finding: Finding) -> Object:
        origin, now = finding.origin, self._today().strftime("%Y-%m-%dT%H:%M:%SZ")
        message = ": ".join(part for part in (origin.field, finding.message, finding.fix) if part)
        digest = hashlib.sha256(f"{origin.uid}/{finding.code}/{message}".encode()).hexdigest()[:16]
        subject = {
            "apiVersion": origin.api_version,
            "kind": origin.kind,
            "name": origin.name,
            "namespace": origin.namespace,
            "uid": origin.uid,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{origin.name}.{digest}", "namespace": origin.namespace},
            "involvedObject": subject,
            "type": "Warning",
            "reason": finding.code,
            "message": message[:LONGEST],
            "source": {"component": FIELD_MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _is_in_cluster(finding: Finding) -> bool:
    return bool(finding.origin.uid and finding.origin.namespace)


def _scope(key: Key) -> Key:
    """All of a namespace: what one may not say there no other may."""
    return key[0], key[1], ""


def _step(key: Key) -> Step:
    return Step(Verb.CREATE, key, frozenset())
