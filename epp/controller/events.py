"""Events on the objects of people, for what keeps them from being served: each said once.

Place:   called by loop.py with the errors of a round.
Rule:    an Event has a name that follows from what it says, so that a controller that is started again does
         not say it again. An API that takes none is told of in the log.
"""

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterable

from epp.compiler.findings import Finding
from epp.controller.cluster import Cluster
from epp.controller.fields import FIELD_MANAGER, Object
from epp.runtime.kubernetes.store import ApiFault, Expired

logger = logging.getLogger("epp.controller")

LONGEST = 1024
"""Characters of a message, as the API has it."""


class Events:
    """``today``: the wall clock."""

    def __init__(self, cluster: Cluster, *, today: Callable[[], dt.datetime]) -> None:
        self._cluster = cluster
        self._today = today
        self._said: set[str] = set()
        self._fault = ""

    async def tell(self, findings: Iterable[Finding]) -> None:
        """Those of these that are about an object of the cluster and have not been said."""
        names = set()
        for finding in findings:
            if not finding.origin.uid or not finding.origin.namespace:
                continue
            event = self._event(finding)
            name = event["metadata"]["name"]
            names.add(name)
            if name not in self._said and not await self._post(event):
                names.discard(name)
        self._said = names

    async def _post(self, event: Object) -> bool:
        try:
            await self._cluster.post(event)
        except (ApiFault, Expired) as fault:
            if str(fault) != self._fault:
                logger.warning("an event cannot be written", extra={"fields": {"error": str(fault)}})
            self._fault = str(fault)
            return False
        self._fault = ""
        return True

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
