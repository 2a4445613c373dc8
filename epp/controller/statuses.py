"""``status.gateway`` and GatewayReady of LLMKube's objects that we serve: written when they change.

Place:   called by loop.py at the end of a round; what they say comes from epp.compiler.inputs.llmkube.
Rule:    server-side apply with a field manager of its own: what LLMKube writes stays LLMKube's. Of an object
         that we do not serve any more our part goes.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from epp.compiler.compile import Compiled
from epp.compiler.documents import Document, Documents
from epp.compiler.inputs.llmkube.claiming import is_claimed
from epp.compiler.inputs.llmkube.status import Outcome, words
from epp.compiler.options import Options
from epp.controller.carrying import AT_ONCE
from epp.controller.cluster import Cluster
from epp.controller.difference import Key, key_of, title
from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault, Expired

STATUS_MANAGER = "fleet-epp-controller-status"
ROUTES = frozenset({"AIGatewayRoute", "HTTPRoute"})
"""Kinds of which the gateway says whether it serves them."""


def wanted_statuses(
    compiled: Compiled,
    documents: Iterable[Document],
    options: Options,
    *,
    live: Mapping[Key, Object],
    errors: Mapping[str, str],
    missing: frozenset[str],
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


class Statuses:
    """``today``: the wall clock. ``fault``: of the last round."""

    def __init__(self, cluster: Cluster, options: Options, *, today: Callable[[], dt.datetime]) -> None:
        self.fault = ""
        self._cluster = cluster
        self._options = options
        self._today = today

    async def tell(
        self,
        wanted: Mapping[Key, Mapping[str, Any]],
        declared: Iterable[Object],
        *,
        may_write: Callable[[], bool],
    ) -> None:
        """``wanted``: what our part of a status is to be, by object; ``declared``: those that there are."""
        self.fault = ""
        slots = asyncio.Semaphore(AT_ONCE)

        async def tell(live: Object, ours: Mapping[str, Any]) -> None:
            async with slots:
                if may_write():
                    await self._write(live, ours)

        async with asyncio.TaskGroup() as group:
            for live in declared:
                ours = self._news(live, wanted.get(key_of(live)))
                if ours is not None:
                    group.create_task(tell(live, ours), name=f"status: {title(key_of(live))}")

    def _news(self, live: Object, status: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Our part as it is to be; empty: it goes; None: it is so."""
        if status is None:
            is_left = _is_written(live) and not is_claimed(Document(live), self._options)
            return {} if is_left else None
        ours = self._dated(status, live)
        return None if _is_said(ours, live.get("status") or {}) else ours

    async def _write(self, live: Object, ours: Mapping[str, Any]) -> None:
        meta = live["metadata"]
        identity = {"name": meta["name"], "namespace": meta["namespace"]}
        document = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}
        try:
            # one without a status takes ours away; an empty one the API would take for null
            await self._cluster.apply_status(
                {**document, **({"status": ours} if ours else {})}, STATUS_MANAGER
            )
        except (ApiFault, Expired) as fault:
            if isinstance(fault, ApiFault) and fault.status == 404:
                return  # it is gone, or its status is
            self.fault = f"status of {title(key_of(live))}: {fault}"

    def _dated(self, status: Mapping[str, Any], live: Object) -> dict[str, Any]:
        """Each condition with the time since when it is so."""
        there = {one["type"]: one for one in (live.get("status") or {}).get("conditions") or ()}
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


def _is_said(ours: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Nothing would change."""
    for key, value in ours.items():
        if key == "conditions":
            known = {one["type"]: one for one in there.get("conditions") or ()}
            if any(known.get(one["type"]) != one for one in value):
                return False
        elif there.get(key) != value:
            return False
    return True
