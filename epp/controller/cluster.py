"""Writing objects: server-side apply, deletion, status; each write is counted.

Place:   asked by carrying.py, statuses.py and events.py.
Rule:    fields are taken from others only where the object is ours. What was not there is applied without
         force, so that whoever makes it in the same moment keeps it.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from epp.controller.difference import belongs, key_of, title, whose
from epp.controller.discovery import Discovery
from epp.controller.fields import FIELD_MANAGER, Object
from epp.runtime.kubernetes.store import ApiFault

logger = logging.getLogger("epp.controller")

APPLY = "application/apply-patch+yaml"
TRIES = 3
"""Of a deletion, while the object's status goes on changing."""


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
    """The object is somebody else's; the text says whose."""


class Cluster:
    """``inventory``: of the objects that are ours."""

    def __init__(self, api: Api, discovery: Discovery, inventory: str) -> None:
        self.writes: Counter[tuple[str, str]] = Counter()
        """By verb and kind."""
        self._api = api
        self._discovery = discovery
        self._inventory = inventory

    async def get(self, document: Object) -> Object | None:
        """The object of this name as it is now; None: there is none."""
        try:
            return _read(await self._api.fetch(await self._path(document), {}))
        except ApiFault as fault:
            if fault.status == 404:
                return None
            raise

    async def create(self, document: Object) -> Object:
        """Make what was not there when somebody looked; Taken when it is there now and not ours."""
        await self._path(document)  # a kind that is not there is told as such
        there = await self.get(document)
        if there is not None and not belongs(there, self._inventory):
            raise Taken(whose(there))
        try:
            return await self._apply("create", document, is_ours=there is not None)
        except ApiFault as fault:
            if fault.status == 409 and there is None:
                raise Taken(f"it was made in the same moment: {fault}") from fault
            raise

    async def change(self, document: Object) -> Object:
        """Apply to what is ours."""
        return await self._apply("change", document, is_ours=True)

    async def delete(self, live: Object) -> None:
        """What is ours still, and the very object."""
        uid = live["metadata"]["uid"]
        path = await self._path(live)
        there: Object | None = live
        for left in reversed(range(TRIES)):
            if there is None or there["metadata"]["uid"] != uid:
                return
            if not belongs(there, self._inventory):
                raise Taken(whose(there))
            try:
                await self._delete(path, there)
                return
            except ApiFault as fault:
                if fault.status == 404:
                    return
                if fault.status != 409 or not left:
                    raise
            there = await self.get(live)

    async def apply_status(self, document: Object, manager: str) -> Object:
        """The status of an object of others, of which the fields in ``document`` are ours."""
        self._count("status", document)
        path = f"{await self._path(document)}/status"
        query = {"fieldManager": manager, "force": "true"}
        return _read(await self._api.write("PATCH", path, document, query=query, content=APPLY))

    async def post(self, document: Object) -> None:
        """Make an object that nobody changes later; one that is there already stays."""
        self._count("create", document)
        path = (await self._path(document)).rpartition("/")[0]
        try:
            await self._api.write("POST", path, document, query={"fieldManager": FIELD_MANAGER})
        except ApiFault as fault:
            if fault.status != 409:
                raise

    async def _apply(self, verb: str, document: Object, *, is_ours: bool) -> Object:
        self._count(verb, document)
        path = await self._path(document)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if is_ours else "false"}
        return _read(await self._api.write("PATCH", path, document, query=query, content=APPLY))

    async def _delete(self, path: str, there: Object) -> None:
        self._count("delete", there)
        meta = there["metadata"]
        expected = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": expected}
        await self._api.write("DELETE", path, options)

    async def _path(self, document: Object) -> str:
        kind, namespace, name = key_of(document)
        resource = await self._discovery.resource(document["apiVersion"], kind)
        return f"{resource.path(namespace)}/{name}"

    def _count(self, verb: str, document: Object) -> None:
        self.writes[verb, str(document["kind"])] += 1
        fields = {"verb": verb, "object": title(key_of(document))}
        logger.debug("write", extra={"fields": fields})


def _read(body: bytes) -> Object:
    try:
        found: Object = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as fault:
        raise ApiFault(0, f"its answer is not understood: {fault}") from fault
    return found
