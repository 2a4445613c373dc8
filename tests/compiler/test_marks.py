"""How what we made is known again, and goes with what it is for."""

from dataclasses import replace
from typing import Any

from epp.compiler.emission import made
from epp.compiler.findings import Origin
from epp.compiler.marks import INVENTORY, MANAGED_BY, OWNER, SOURCE, marked, people, sources_of
from epp.compiler.options import Options, Target
from tests.compiler.makers import origin

OPTIONS = Options(Target.GATEWAY_API)
QWEN = replace(origin("qwen"), uid="uid-qwen")
PHI = replace(origin("phi"), uid="uid-phi")


def meta(*sources: Origin, namespace: str = "llm", owners: dict[str, str] | None = None) -> dict[str, Any]:
    plain = made("v1", "Service", namespace, "one", *sources, spec={})
    found = marked(plain, OPTIONS, *people(plain, owners or {}))
    assert found.sources == sources
    return dict(found.document["metadata"])


def reference(of: Origin) -> dict[str, str]:
    return {"apiVersion": of.api_version, "kind": of.kind, "name": of.name, "uid": of.uid}


def test_it_goes_when_the_last_of_its_inputs_goes() -> None:
    assert meta(QWEN)["ownerReferences"] == [reference(QWEN)]
    assert meta(QWEN, PHI, QWEN.at("spec"))["ownerReferences"] == [reference(PHI), reference(QWEN)]


def test_owners_are_of_its_namespace() -> None:
    """Kubernetes deletes an object at once whose owner it does not find beside it."""
    assert "ownerReferences" not in meta(QWEN, namespace="edge")
    here = replace(PHI, namespace="edge")
    assert meta(QWEN, here, namespace="edge")["ownerReferences"] == [reference(here)]


def test_a_file_owns_nothing() -> None:
    assert "ownerReferences" not in meta(origin("qwen"))


def test_labels_are_the_inventory_and_what_there_was() -> None:
    plain = made("v1", "Service", "llm", "one", QWEN, annotations={"theirs": "y"}, spec={})
    plain.document["metadata"]["labels"] = {"app": "x"}
    found = marked(plain, replace(OPTIONS, inventory="site-a")).document["metadata"]
    assert found["labels"].items() >= {"app": "x", MANAGED_BY: "fleet-epp", INVENTORY: "site-a"}.items()
    assert found["annotations"].items() >= {"theirs": "y", SOURCE: "ModelRouter/llm/qwen"}.items()


def test_its_inputs_and_their_parts_are_named_and_found_again() -> None:
    part = replace(Origin("Fleet", "llm", "site"), part="qwen")
    document = {"metadata": meta(part, PHI)}
    names = {"Fleet/llm/site", "Fleet/llm/site/qwen", "ModelRouter/llm/phi"}
    assert sources_of(document) == names
    assert document["metadata"]["annotations"][SOURCE] == ",".join(sorted(names))
    assert sources_of({"metadata": {}}) == sources_of({}) == frozenset()


def test_people_are_named_once() -> None:
    owners = {"ModelRouter/llm/qwen": "search", "ModelRouter/llm/phi": "search", "ModelRouter/llm/x": "sales"}
    assert meta(QWEN, PHI, owners=owners)["annotations"][OWNER] == "search"
    assert OWNER not in meta(QWEN)["annotations"]
