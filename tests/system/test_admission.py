"""deploy/admission in a real API server: it says of the objects of tests/golden/lint what ``epp lint`` says.

Once with CRDs that let everything through, as old ones do, so that our own words are heard; once with
those of today, which must take every good object.
"""

import json
import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from bench.rig.kube import ADMIN, plural
from bench.rig.process import wait_until
from epp.lint.registry import BY_CODE
from epp.lint.view import GROUPS
from tests.lint.cases import CASES, Case, linted
from tests.system.kube_plane import CLUSTER_WIDE, MISSING, ControlPlane, is_possible, mended, path_of

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [pytest.mark.timeout(900), pytest.mark.default_driver]

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("gateway-api-v1.5.1", "gie-v1.5.0", "llm-d-router-v0.10.0", "llmkube-v0.9.19"),
    *("envoy-ai-gateway-v1.1.0", "envoy-gateway-v1.8.1"),
)
ADMISSION = ROOT / "deploy/admission"
POLICIES = [
    one
    for name in yaml.safe_load((ADMISSION / "kustomization.yaml").read_text())["resources"]
    for one in yaml.safe_load_all((ADMISSION / name).read_text())
]
ONLY_PARSED = {"HelmRelease", "CustomResourceDefinition"}
"""Kinds whose CRD is not here, and one that would be installed."""
ADMITTED = {
    code: {each.kind for each in rule.admissions} for code, rule in BY_CODE.items() if rule.admissions
}
CERTAIN = {
    code: {each.kind for each in BY_CODE[code].admissions if each.is_certain}
    for code in ADMITTED
    if any(each.is_certain for each in BY_CODE[code].admissions)
}
"""Those that nothing beside the object could change."""
REFUSED_BY_CRD = {
    *("MixedBackendRefs", "SeveralPools", "TooManyRules", "FailOpenFullDuplex", "FractionalDuration"),
}
"""Codes whose bad objects CRDs of today refuse by themselves."""


class Told(NamedTuple):
    """Codes of ours with which an object was refused, and let through with a warning; and all words."""

    refused: set[str]
    warned: set[str]
    words: str


def _plane(logs: Path, kinds: set[str], *, checked: bool) -> Iterator[ControlPlane]:
    with ControlPlane(logs, users={}) as plane:
        for crd in definitions(kinds):
            plane.define(mended(crd, logs), checked=checked)
        for name in namespaces():
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        plane.apply(*POLICIES)
        heard = set(ADMITTED) - (REFUSED_BY_CRD if checked else set())
        wait_until(lambda: are_in_force(plane, heard), what="the policies are in force")
        yield plane


def definitions(kinds: set[str]) -> list[Path]:
    names = {f"{GROUPS.get(kind, 'llm-d.ai')}_{plural(kind)}.yaml" for kind in kinds}
    found = [ROOT / "tests/crds" / folder / name for folder in FOLDERS for name in names]
    return sorted(path for path in found if path.exists())


def namespaces() -> set[str]:
    objects = [one for case in CASES for name in ("bad", "good") for one in case.objects(name)]
    return {one["metadata"].get("namespace", "default") for one in objects} - {"default"}


def are_in_force(plane: ControlPlane, heard: set[str]) -> bool:
    """Each of them, by an object that it speaks about."""
    told = {code: say(plane, subject(code)) for code in heard}
    return all(code in one.refused | one.warned for code, one in told.items())


def subject(code: str) -> dict[str, Any]:
    """The object that the bad example is about."""
    (case,) = [one for one in CASES if one.code == code]
    (finding,) = case.findings("bad")
    return next(one for one in case.objects("bad") if finding.origin.object == title(one))


def title(document: Mapping[str, Any]) -> str:
    meta = document["metadata"]
    return "/".join(part for part in (document["kind"], meta.get("namespace", ""), meta["name"]) if part)


@pytest.fixture(scope="module")
def lax(logs: Path) -> Iterator[ControlPlane]:
    yield from _plane(logs, {kind for kinds in ADMITTED.values() for kind in kinds}, checked=False)


@pytest.fixture(scope="module")
def strict(logs: Path) -> Iterator[ControlPlane]:
    good = {one["kind"] for case in CASES for one in case.objects("good")}
    yield from _plane(logs, good, checked=True)


def say(plane: ControlPlane, document: dict[str, Any], *, dry: bool = True) -> Told:
    """What the API server says when the object is applied."""
    placed = {**document, "metadata": {**document["metadata"]}}
    placed["metadata"].pop("creationTimestamp", None)
    if placed["kind"] not in CLUSTER_WIDE:
        placed["metadata"].setdefault("namespace", "default")
    query = f"fieldManager=tests&force=true&fieldValidation=Strict{'&dryRun=All' if dry else ''}"
    request = urllib.request.Request(
        f"{plane.api.url}{path_of(placed)}?{query}",
        method="PATCH",
        data=json.dumps(placed).encode(),
        headers={"authorization": f"Bearer {ADMIN}", "content-type": "application/apply-patch+yaml"},
    )
    try:
        trust = ssl.create_default_context(cafile=str(plane.api.ca))
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            warnings, refusal = answer.headers.get_all("Warning") or [], ""
    except urllib.error.HTTPError as fault:
        warnings, refusal = fault.headers.get_all("Warning") or [], json.loads(fault.read())["message"]
    ours = [one for one in warnings if "fleet-epp-" in one]
    return Told(codes(refusal), codes(" ".join(ours)), refusal)


def codes(words: str) -> set[str]:
    return set(re.findall(r"--explain (\w+)\)", words))


def told_by_lint(case: Case, document: dict[str, Any], name: str) -> set[str]:
    """Of this object among all of the file, as far as one object decides it."""
    return {
        one.code
        for one in linted(*case.objects(name), context=case.context)
        if one.origin.object == title(document) and document["kind"] in ADMITTED.get(one.code, ())
    }


@pytest.mark.parametrize("name", ["bad", "good"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_the_api_server_says_what_lint_says(lax: ControlPlane, case: Case, name: str) -> None:
    for document in case.objects(name):
        if not any(document["kind"] in kinds for kinds in ADMITTED.values()):
            continue  # no rule speaks about it
        told = say(lax, document)
        assert told.refused | told.warned == told_by_lint(case, document, name), told.words
        if not told.refused:
            assert told.words == ""


@pytest.mark.parametrize("code", CERTAIN)
def test_they_agree_whatever_is_left_out(lax: ControlPlane, code: str) -> None:
    """Each field and each item of a list, one at a time: what is absent is where two languages differ."""
    for document in without_one(subject(code)):
        told = say(lax, document)
        certain = {one.code for one in linted(document) if document["kind"] in CERTAIN.get(one.code, ())}
        assert (told.refused | told.warned) & CERTAIN.keys() == certain, (document["spec"], told.words)


def without_one(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies, each without one of what stands in its spec, at any depth."""

    def below(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield {name: other for name, other in value.items() if name != key}
                yield from ({**value, key: changed} for changed in below(inner))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                rest = [*value[:index], *value[index + 1 :]]
                yield rest
                yield from ([*value[:index], changed, *value[index + 1 :]] for changed in below(inner))

    yield from ({**document, "spec": spec} for spec in below(document["spec"]))


@pytest.mark.parametrize("code", ADMITTED)
def test_traps_are_refused_and_cautions_are_warnings(lax: ControlPlane, code: str) -> None:
    document, rule = subject(code), BY_CODE[code]
    (admission,) = [each for each in rule.admissions if each.kind == document["kind"]]
    told = say(lax, document)
    refuses = rule.severity == "error" and admission.is_certain
    assert (told.refused, told.warned) == (({code}, set()) if refuses else (set(), {code}))
    if refuses:
        assert f"{code}: {rule.title}" in told.words


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_crds_of_today_take_every_good_object(strict: ControlPlane, case: Case) -> None:
    for document in case.objects("good"):
        if document["kind"] not in ONLY_PARSED:
            assert say(strict, document).words == ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_what_crds_of_today_let_through_is_what_the_rules_are_for(strict: ControlPlane, case: Case) -> None:
    refused_by_crd = any(
        told.words and not told.refused
        for document in case.objects("bad")
        if document["kind"] not in ONLY_PARSED
        for told in [say(strict, document)]
    )
    assert refused_by_crd == (case.code in REFUSED_BY_CRD)


@pytest.mark.skipif(
    not shutil.which("kubectl"),
    reason="no kubectl: that deploy/admission is a kustomization was not tested, its files alone were",
)
def test_the_kustomization_is_applied_by_kubectl(strict: ControlPlane) -> None:
    command = ["kubectl", "--kubeconfig", strict.kubeconfig(ADMIN), "apply", "--kustomize", ADMISSION]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(POLICIES)


def backend(hostname: str, **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUPS['Backend']}/v1alpha1",
        "kind": "Backend",
        "metadata": {"name": "mini", "namespace": "llm", **meta},
        "spec": {"endpoints": [{"fqdn": {"hostname": hostname, "port": 8000}}]},
    }


def test_the_annotation_is_honoured(strict: ControlPlane) -> None:
    assert say(strict, backend("mini")).refused == {"UnusableAddress"}
    meant = backend("mini", annotations={"fleet-epp.dev/lint-ignore": "MissingTimeout, UnusableAddress"})
    assert say(strict, meant).words == ""


def test_what_a_controller_has_made_is_let_through(strict: ControlPlane) -> None:
    owner = {"apiVersion": "v1", "kind": "Service", "name": "mini", "uid": "1", "controller": True}
    assert say(strict, backend("mini", ownerReferences=[owner])).words == ""


def test_what_was_there_before_the_policies_can_be_deleted(strict: ControlPlane) -> None:
    """A finalizer is taken away by a change of the object, which its spec has nothing to do with."""
    meant = {"fleet-epp.dev/lint-ignore": "UnusableAddress"}
    old = backend("mini", annotations=meant, finalizers=["example.com/wait"])
    assert say(strict, old, dry=False).words == ""
    path = path_of(old)
    strict.patch(path, {"metadata": {"annotations": {"fleet-epp.dev/lint-ignore": None}}})
    strict.delete(old)
    strict.patch(path, {"metadata": {"finalizers": None}})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        strict.api.ask("GET", path)
