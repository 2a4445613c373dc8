"""What is read of LLMKube's objects is what its CRDs have, by the same names and with the same words."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from epp.compiler.inputs.llmkube import objects
from epp.compiler.inputs.llmkube.routers import DATA_PLANES

CRDS = Path(__file__).parents[2] / "crds" / "llmkube-v0.9.19"
PARTS = [
    (objects.ModelRouter, "modelrouters", "spec"),
    (objects.RouterHead, "modelrouters", "spec"),
    (objects.Service, "inferenceservices", "spec"),
    (objects.Model, "models", "spec"),
    (objects.ModelPool, "modelpools", "spec"),
]
NEWER = {".backends[].resolution", ".backends[].inferenceServiceRef.namespace"}
"""Not in this version: of the next one, and what people write in vain."""
NEWER |= {".members[].inferenceServiceRef.namespace"}


@lru_cache
def schema(plural: str, part: str) -> dict[str, Any]:
    text = (CRDS / f"inference.llmkube.dev_{plural}.yaml").read_text()
    found = yaml.load(text, Loader=yaml.CSafeLoader)  # the safe one, 10 times as fast
    (version,) = found["spec"]["versions"]
    inner: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return inner


def differences(read: msgspec.inspect.Type, crd: dict[str, Any], path: str = "") -> set[str]:
    """Places where what is read is not what there is."""
    match read:
        case msgspec.inspect.UnionType(types):
            kinds = [one for one in types if not isinstance(one, msgspec.inspect.NoneType)]
            return set().union(*(differences(one, crd, path) for one in kinds))
        case msgspec.inspect.ListType(item_type=item):
            return differences(item, crd.get("items", {}), f"{path}[]")
        case msgspec.inspect.LiteralType(values):
            return set() if set(crd.get("enum", ())) == set(values) else {path}
        case msgspec.inspect.StructType(fields=fields):
            there = crd.get("properties", {})
            missing = {f"{path}.{one.encode_name}" for one in fields if one.encode_name not in there}
            # nobody writes a status by hand, and misspells a field of it
            if issubclass(read.cls, objects.Part) and read.cls is not objects.ServiceStatus:
                missing |= {f"{path}.{name}" for name in there.keys() ^ read.cls.known()}
            found = (
                differences(one.type, there[one.encode_name], f"{path}.{one.encode_name}")
                for one in fields
                if one.encode_name in there
            )
            return missing.union(*found)
    return set() if "type" in crd or not crd else {path}


@pytest.mark.parametrize(
    "kind, plural, part", [*PARTS, (objects.ServiceStatus, "inferenceservices", "status")]
)
def test_fields_and_words_are_the_crds(kind: type[objects.Part], plural: str, part: str) -> None:
    assert differences(msgspec.inspect.type_info(kind), schema(plural, part)) <= NEWER


def test_the_data_planes_are_those_of_the_crd_and_one_more() -> None:
    assert [*schema("modelrouters", "spec")["properties"]["dataPlane"]["enum"], "AgentGateway"] == [
        *DATA_PLANES
    ]


def test_a_difference_would_be_seen() -> None:
    class Wrong(objects.RouterHead, frozen=True):
        backend: str | None = None

    assert differences(msgspec.inspect.type_info(Wrong), schema("modelrouters", "spec")) == {".backend"}
