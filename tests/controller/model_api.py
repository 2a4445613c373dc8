"""An API server in a few lines, as far as server-side apply goes: what it keeps, and whose its fields are.

Values are scalars, objects of them and lists that are one value; that the real one agrees is shown in
tests/system/test_controller.py.
"""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from epp.controller.cluster import Deposed, Taken
from epp.controller.difference import Key, belongs, key_of, way_out, whose
from epp.controller.fields import FIELD_MANAGER, Object
from tests.controller.objects import INVENTORY

Fields = dict[str, Any]


def fields_of(document: Object) -> Fields:
    """As managedFields would have them."""
    meta = document["metadata"]
    said = {key: meta[key] for key in ("labels", "annotations") if meta.get(key)}
    content = {key: value for key, value in document.items() if key not in {"apiVersion", "kind", "metadata"}}
    return {**_fields(content), "f:metadata": _fields(said)}


def _fields(value: Any) -> Fields:
    if not isinstance(value, Mapping) or not value:
        return {}
    return {f"f:{key}": _fields(each) for key, each in value.items()}


def _removed(document: Any, fields: Fields, kept: Fields) -> None:
    for name, below in fields.items():
        key = name[2:]
        if key not in document:
            continue
        if below and isinstance(document[key], dict):
            _removed(document[key], below, kept.get(name, {}))
            if not document[key] and name not in kept:
                del document[key]
        elif name not in kept:
            del document[key]


def _merged(document: Any, applied: Mapping[str, Any]) -> None:
    for key, value in applied.items():
        if isinstance(value, Mapping) and value and isinstance(document.get(key), dict):
            _merged(document[key], value)
        else:
            document[key] = copy.deepcopy(value)


class ModelApi:
    """Objects by key. ``writes``: how many there were; ``limit``: after so many another one leads."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.writes = 0
        self.limit: int | None = None
        self._numbers = itertools.count(1)

    # --- as the controller writes

    async def create(self, document: Object) -> Object:
        there = self.objects.get(key_of(document))
        if there is not None and not belongs(there, INVENTORY):
            raise Taken(whose(there), way_out(there, INVENTORY))
        return self._apply(document)

    async def change(self, document: Object, live: Object) -> Object:
        return self._apply(document)

    async def delete(self, live: Object) -> None:
        self._write()
        self.objects.pop(key_of(live), None)

    def _apply(self, document: Object) -> Object:
        self._write()
        key = key_of(document)
        there = self.objects.get(key)
        if there is None:
            there = {"apiVersion": document["apiVersion"], "kind": document["kind"]}
            there["metadata"] = {"name": key[2], "namespace": key[1], "uid": f"uid-{next(self._numbers)}"}
            self.objects[key] = there
        meta = there["metadata"]
        entries = meta.setdefault("managedFields", [])
        fields = fields_of(document)
        for entry in [one for one in entries if one["manager"] == FIELD_MANAGER]:
            _removed(there, entry["fieldsV1"], fields)
            entries.remove(entry)
        entries.append({"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields})
        _merged(there, document)
        meta["resourceVersion"] = str(next(self._numbers))
        return copy.deepcopy(there)

    def _write(self) -> None:
        if self.limit is not None and self.writes >= self.limit:
            raise Deposed
        self.writes += 1

    # --- as others do

    def put(self, document: Object, manager: str = "kubectl") -> None:
        key = key_of(document)
        self.objects[key] = copy.deepcopy(dict(document))
        meta = self.objects[key]["metadata"]
        meta["uid"], meta["resourceVersion"] = f"uid-{next(self._numbers)}", str(next(self._numbers))
        entry = {"manager": manager, "operation": "Update", "fieldsV1": fields_of(document)}
        meta["managedFields"] = [entry]

    def edit(self, key: Key, value: Any) -> None:
        """Somebody changes ``spec.value``: the field is theirs then."""
        there = self.objects[key]
        there["spec"]["value"] = value
        for entry in there["metadata"]["managedFields"]:
            entry["fieldsV1"].get("f:spec", {}).pop("f:value", None)
