"""Whether an object has the fields that we want, and none of ours that we do not want any more.

Place:   asked by difference.py.
Rule:    what others have added, or the API has filled in, is theirs. An object is as wanted when server-side
         apply would change nothing: the values are those wanted, and the fields that the API has noted as
         ours (managedFields) are just those. It notes nothing below a list that is one value, as rules of a
         route are: what stands there too much shows in the hash of what was applied (``stamped``).
Source:  Kubernetes API reference, FieldsV1: ``f:name`` is a field, ``k:{...}`` an item of a list with keys,
         ``v:...`` one of a set; nothing below: the whole value is one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import msgspec

FIELD_MANAGER = "fleet-epp-controller"

Object: TypeAlias = Mapping[str, Any]

_IDENTITY = frozenset({"apiVersion", "kind", "metadata"})
_SAID = ("labels", "annotations", "ownerReferences")
"""Of metadata: what we say; the rest is which object it is."""

APPLIED = "fleet-epp.dev/applied"
"""Annotation: a hash of the object as it was applied."""


def stamped(wanted: Object) -> dict[str, Any]:
    """``wanted`` with the hash of itself."""
    digest = hashlib.sha256(msgspec.json.encode(wanted, order="deterministic")).hexdigest()[:16]
    meta = wanted["metadata"]
    return {
        **wanted,
        "metadata": {**meta, "annotations": {**meta.get("annotations", {}), APPLIED: digest}},
    }


def unstamped(document: Object) -> dict[str, Any]:
    """The same for people, whom the hash tells nothing."""
    meta = dict(document["metadata"])
    meta["annotations"] = {key: one for key, one in meta.get("annotations", {}).items() if key != APPLIED}
    if not meta["annotations"]:
        del meta["annotations"]
    return {**document, "metadata": meta}


def is_as_wanted(wanted: Object, live: Object) -> bool:
    """Whether applying ``wanted``, which is stamped, would leave ``live`` as it is."""
    ours = owned(live)
    if ours is None:
        return False
    said, has = _said(wanted), _said(live)
    of_metadata = {key: value for key, value in ours.get("f:metadata", {}).items() if key != "f:name"}
    content = {key: value for key, value in wanted.items() if key not in _IDENTITY}
    of_content = {key: value for key, value in ours.items() if key.removeprefix("f:") not in _IDENTITY}
    return _fields_agree(said, has, of_metadata) and _fields_agree(content, live, of_content)


def owned(live: Object) -> Mapping[str, Any] | None:
    """The fields that are ours by server-side apply; None: none are."""
    for entry in live.get("metadata", {}).get("managedFields") or ():
        is_ours = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if is_ours and not entry.get("subresource"):
            fields: Mapping[str, Any] = entry.get("fieldsV1") or {}
            return fields
    return None


def bare(live: Object) -> dict[str, Any]:
    """What of an object is not its status, nor counted by the API."""
    kept = {key: value for key, value in live.items() if key not in {"metadata", "status"}}
    return {**kept, "metadata": _said(live)}


def ours_of(live: Object, wanted: Object) -> dict[str, Any]:
    """What of ``live`` stands where ``wanted`` has something, or is noted as ours: for people to compare.

    With what the API has filled in where that alone differs, since it may be a field that is to go.
    """
    wanted = unstamped(wanted)
    seen = unstamped(_seen(live, wanted, is_whole=False))
    return seen if seen != wanted else unstamped(_seen(live, wanted, is_whole=True))


def _seen(live: Object, wanted: Object, *, is_whole: bool) -> dict[str, Any]:
    ours = owned(live) or {}
    meta = {key: live["metadata"][key] for key in ("name", "namespace") if key in live["metadata"]}
    said = _shown(_said(live), _said(wanted), ours.get("f:metadata", {}), is_whole=False)
    content = {key: value for key, value in live.items() if key not in {*_IDENTITY, "status"}}
    plain = {key: value for key, value in wanted.items() if key not in _IDENTITY}
    other = _shown(content, plain, ours, is_whole=is_whole)
    return {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": {**meta, **said}, **other}


def _shown(live: Any, wanted: Any, ours: Mapping[str, Any], *, is_whole: bool) -> Any:
    """``is_whole``: of a list that is one value all, else what stands where something is wanted."""
    if isinstance(live, Mapping) and (isinstance(wanted, Mapping) or ours):
        wanted = wanted if isinstance(wanted, Mapping) else {}
        names = [*wanted, *(name[2:] for name in ours if name.startswith("f:") and name[2:] not in wanted)]
        return {
            name: _shown(live[name], wanted.get(name), ours.get(f"f:{name}", {}), is_whole=is_whole)
            for name in names
            if name in live
        }
    if isinstance(live, list) and isinstance(wanted, list) and not (is_whole and not ours):
        keys = [(json.loads(name[2:]), fields) for name, fields in ours.items() if name.startswith("k:")]
        if keys:
            owned_items = [(one, *key) for one in live for key in keys if _is_part(key[0], one)]
            return [
                _shown(one, _item(wanted, key), fields, is_whole=is_whole) for one, key, fields in owned_items
            ]
        return [
            _shown(one, other, {}, is_whole=is_whole) for one, other in zip_longest(live, wanted[: len(live)])
        ]
    return live


def _said(document: Object) -> dict[str, Any]:
    meta = document.get("metadata", {})
    return {key: meta[key] for key in _SAID if meta.get(key)}


def _agrees(wanted: Any, live: Any, ours: Mapping[str, Any]) -> bool:
    """The same of one value. ``ours``: what of it is."""
    if not ours:
        return _is_part(wanted, live)
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return _fields_agree(wanted, live, ours)
    if isinstance(wanted, Sequence) and isinstance(live, Sequence) and not isinstance(wanted, str):
        return _items_agree(wanted, live, ours)
    return False


def _fields_agree(wanted: Mapping[str, Any], live: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    if any(name.startswith("f:") and name[2:] not in wanted for name in ours):
        return False
    for key, value in wanted.items():
        if _is_nothing(value) and key not in live:
            continue
        if key not in live or f"f:{key}" not in ours:
            return False
        if not _agrees(value, live[key], ours[f"f:{key}"]):
            return False
    return True


def _items_agree(wanted: Sequence[Any], live: Sequence[Any], ours: Mapping[str, Any]) -> bool:
    values = [json.loads(name[2:]) for name in ours if name.startswith("v:")]
    if values:
        return len(values) == len(wanted) and all(one in values and one in live for one in wanted)
    left = list(wanted)
    for name, fields in ours.items():
        if not name.startswith("k:"):
            continue
        keys = json.loads(name[2:])
        item = _item(left, keys)
        there = next((one for one in live if _is_part(keys, one)), None)
        if item is None or there is None:
            return False
        left.remove(item)
        if not fields:  # the item is one value
            if not _is_part(item, there):
                return False
            continue
        filled = {key: value for key, value in fields.items() if key.removeprefix("f:") not in keys}
        plain = {key: value for key, value in item.items() if key not in keys}
        if not _fields_agree(plain, there, filled):
            return False
    return not left


def _item(items: Sequence[Any], keys: Mapping[str, Any]) -> Any:
    """The one of a list with ``keys``; None: none. One that is not said the API has filled in."""
    return next(
        (one for one in items if _is_part({key: one.get(key, keys[key]) for key in keys}, keys)), None
    )


def _is_part(wanted: Any, live: Any) -> bool:
    """``live`` has all that is wanted; what it has beside that the API has filled in."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            _is_part(value, live[key]) if key in live else _is_nothing(value) for key, value in wanted.items()
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        is_list = isinstance(live, Sequence) and not isinstance(live, str)
        return is_list and len(wanted) == len(live) and all(map(_is_part, wanted, live))
    return bool(wanted == live) and isinstance(wanted, bool) is isinstance(live, bool)


def _is_nothing(value: Any) -> bool:
    """What the API may leave out."""
    return value is None or (
        isinstance(value, Mapping | Sequence) and not value and not isinstance(value, str)
    )
