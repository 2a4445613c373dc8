"""Writing objects: server-side apply, deletion, status; each write is counted.

Place:   asked by carrying.py, statuses.py and events.py.
Rule:    fields are taken from others only where the object is ours, and the very one that was looked at. What
         was not there is applied without force, so that whoever makes it in the same moment keeps it. Whether
         we may write is asked directly before each write.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from epp.compiler.marks import Inventory
from epp.controller.difference import belongs, key_of, title, way_out, whose
from epp.controller.discovery import Discovery
from epp.controller.fields import FIELD_MANAGER, Object
from epp.runtime.kubernetes.api import WRITE_TIMEOUT
from epp.runtime.kubernetes.store import ApiFault

logger = logging.getLogger("epp.controller")

APPLY = "application/apply-patch+yaml"
TRIES = 3
"""Of a change or a deletion, while the object's status goes on changing."""


class Api(Protocol):
    """What is needed of epp.runtime.kubernetes.api."""

    async def fetch(
        self, path: str, query: Mapping[str, str], *, timeout: aiohttp.ClientTimeout = ...
    ) -> bytes: ...

    async def write(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> bytes: ...


class Taken(Exception):
    """The object is somebody else's; the text says whose, ``fix`` how it may become ours."""

    def __init__(self, whose: str, fix: str) -> None:
        super().__init__(whose)
        self.fix = fix


class Deposed(Exception):
    """Another replica may lead by now: nothing was written."""

    def __init__(self) -> None:
        super().__init__("this replica leads no longer")


class Cluster:
    """``inventory``: of the objects that are ours. ``may_write``: false: we lead no longer, Deposed."""

    def __init__(
        self,
        api: Api,
        discovery: Discovery,
        inventory: Inventory,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.writes: Counter[tuple[str, str]] = Counter()
        """By verb and kind."""
        self._api = api
        self._discovery = discovery
        self._inventory = inventory
        self._may_write = may_write
        self._has_ended = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def end(self) -> None:
        """No write begins any more; returns when those that have begun have ended."""
        self._has_ended = True
        await self._idle.wait()

    async def get(self, document: Object) -> Object | None:
        """The object of this name as it is now; None: there is none."""
        try:
            return _read(await self._api.fetch(await self._path(document), {}, timeout=WRITE_TIMEOUT))
        except ApiFault as fault:
            if fault.status == 404:
                return None
            raise

    async def create(self, document: Object) -> Object:
        """Make what was not there when somebody looked; Taken when it is there now and not ours."""
        await self._path(document)  # a kind that is not there is told as such
        there = await self.get(document)
        if there is not None and not belongs(there, self._inventory):
            raise self._taken(there)
        try:
            return await self._apply("create", _pinned(document, there), is_ours=there is not None)
        except ApiFault as fault:
            if fault.status == 409 and there is None:
                why, fix = f"it was made in the same moment: {fault}", "wait: it is looked at again"
                raise Taken(why, fix) from fault
            raise

    async def change(self, document: Object, live: Object) -> Object:
        """Apply to what is ours still, and the very object; Taken when it is not ours any more."""
        there: Object | None = live
        for left in reversed(range(TRIES)):
            if there is None or there["metadata"]["uid"] != live["metadata"]["uid"]:
                break
            if not belongs(there, self._inventory):
                raise self._taken(there)
            try:
                return await self._apply("change", _pinned(document, there), is_ours=True)
            except ApiFault as fault:
                if fault.status != 409 or not left:
                    raise
            there = await self.get(live)
        raise ApiFault(409, "it has been deleted meanwhile")

    async def delete(self, live: Object) -> None:
        """What is ours still, and the very object."""
        uid = live["metadata"]["uid"]
        path = await self._path(live)
        there: Object | None = live
        for left in reversed(range(TRIES)):
            if there is None or there["metadata"]["uid"] != uid:
                return
            if not belongs(there, self._inventory):
                raise self._taken(there)
            try:
                await self._delete(path, there)
                return
            except ApiFault as fault:
                if fault.status == 404:
                    return
                if fault.status != 409 or not left:
                    raise
            there = await self.get(live)

    async def apply_status(self, document: Object, manager: str, *, force: bool) -> Object:
        """The status of an object of others, of which the fields in ``document`` are ours.

        ``force``: false: ApiFault 409 when somebody else has one of them.
        """
        path = f"{await self._path(document)}/status"
        return await self._patched("status", path, document, manager, force=force)

    async def post(self, document: Object) -> None:
        """Make an object that nobody changes later; one that is there already stays."""
        path = (await self._path(document)).rpartition("/")[0]
        try:
            await self._write("create", "POST", path, document, query={"fieldManager": FIELD_MANAGER})
        except ApiFault as fault:
            if fault.status != 409:
                raise

    def _taken(self, there: Object) -> Taken:
        return Taken(whose(there), way_out(there, self._inventory))

    async def _apply(self, verb: str, document: Object, *, is_ours: bool) -> Object:
        return await self._patched(verb, await self._path(document), document, FIELD_MANAGER, force=is_ours)

    async def _patched(self, verb: str, path: str, document: Object, manager: str, *, force: bool) -> Object:
        query = {"fieldManager": manager, "force": str(force).lower()}
        try:
            return _read(await self._write(verb, "PATCH", path, document, query=query, content=APPLY))
        except ApiFault as fault:
            if fault.status == 404:  # of a kind whose CRD has gone the API says no more than that
                await self._discovery.again(document["apiVersion"], document["kind"])
            raise

    async def _delete(self, path: str, there: Object) -> None:
        meta = there["metadata"]
        expected = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": expected}
        await self._write("delete", "DELETE", path, options, of=there)

    async def _path(self, document: Object) -> str:
        kind, namespace, name = key_of(document)
        resource = await self._discovery.resource(document["apiVersion"], kind)
        return f"{resource.path(namespace)}/{name}"

    async def _write(
        self, verb: str, method: str, path: str, document: Object, *, of: Object | None = None, **how: Any
    ) -> bytes:
        """``of``: the object, where the document is not it."""
        if self._has_ended or not self._may_write():
            raise Deposed
        about = of or document
        self.writes[verb, str(about["kind"])] += 1
        logger.debug("write", extra={"fields": {"verb": verb, "object": title(key_of(about))}})
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._api.write(method, path, document, **how)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


def _pinned(document: Object, there: Object | None) -> Object:
    """For this very version of the object: on any other the API answers 409."""
    if there is None:
        return document
    seen = {key: there["metadata"][key] for key in ("uid", "resourceVersion")}
    return {**document, "metadata": {**document["metadata"], **seen}}


def _read(body: bytes) -> Object:
    try:
        found: Object = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise ApiFault(0, f"its answer is not understood: {fault}") from fault
    return found
