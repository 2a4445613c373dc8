"""An API server in a few lines, as far as plan and apply ask: kinds, lists by label, apply, delete."""

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any

from bench.rig.kube import plural
from epp.compiler.kinds import KINDS, Kind
from epp.runtime.kubernetes.store import ApiFault
from tests.controller.model_api import fields_of

Object = dict[str, Any]


class ModelCluster:
    """``absent``: kinds that are not installed. ``closed``: that may not be listed. ``busy``: so many lists
    are answered with 429 first."""

    def __init__(self, *, absent: Collection[str] = (), closed: Collection[str] = ()) -> None:
        self.objects: dict[str, Object] = {}
        """By path."""
        self.closed = closed
        self.busy = 0
        self._kinds = [kind for kind in KINDS if kind.name not in absent]

    async def open(self) -> None:
        """There is nothing to find out."""

    async def close(self) -> None:
        """There is no connection."""

    def put(self, *documents: Object) -> None:
        """As somebody else makes them."""
        for one in documents:
            self._store(self._path(one), one, "kubectl")

    def names(self, kind: str) -> set[str]:
        """``namespace/name`` of those that there are."""
        found = [one for one in self.objects.values() if one["kind"] == kind]
        return {f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}" for one in found}

    async def fetch(self, path: str, query: Mapping[str, str], **_: Any) -> bytes:
        if found := self.objects.get(path):
            return json.dumps(found).encode()
        group = [one for one in self._kinds if path in {_home(one, version) for version in one.versions}]
        if group:
            served = [{"name": plural(one.name), "kind": one.name} for one in group]
            return json.dumps({"resources": served}).encode()
        kind = next((one for one in self._kinds if path in _lists(one)), None)
        if kind is None:
            raise ApiFault(404, "the API answers 404: not found")
        if kind.name in self.closed:
            raise ApiFault(403, "the API answers 403: you may not")
        if self.busy:
            self.busy -= 1
            raise ApiFault(429, "the API answers 429: storage is (re)initializing")
        items = [one for one in self.objects.values() if one["kind"] == kind.name and _fits(one, query)]
        return json.dumps({"items": items}).encode()

    async def write(self, method: str, path: str, document: Mapping[str, Any], **_: Any) -> bytes:
        if method == "DELETE":
            del self.objects[path]
            return b"{}"
        self._store(path, document, "fleet-epp-controller")
        return json.dumps(self.objects[path]).encode()

    def _store(self, path: str, document: Mapping[str, Any], manager: str) -> None:
        made = copy.deepcopy(dict(document))
        operation = "Update" if manager == "kubectl" else "Apply"
        entry = {"manager": manager, "operation": operation, "fieldsV1": fields_of(made)}
        made["metadata"] |= {"uid": path, "resourceVersion": "1", "managedFields": [entry]}
        self.objects[path] = made

    def _path(self, document: Object) -> str:
        group, _, version = document["apiVersion"].rpartition("/")
        kind = next(one for one in KINDS if (one.name, one.group) == (document["kind"], group))
        namespace = document["metadata"].get("namespace")
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{_home(kind, version)}{within}/{plural(kind.name)}/{document['metadata']['name']}"


def _home(kind: Kind, version: str) -> str:
    return f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"


def _lists(kind: Kind) -> set[str]:
    return {f"{_home(kind, version)}/{plural(kind.name)}" for version in kind.versions}


def _fits(one: Object, query: Mapping[str, str]) -> bool:
    key, _, value = query.get("labelSelector", "").partition("=")
    labels = one["metadata"].get("labels") or {}
    return not key or (labels.get(key) == value if value else key in labels)
