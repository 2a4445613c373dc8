"""What the controller may is what it does: rules, kinds and golden cases agree."""

import functools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from bench.rig.kube import plural
from epp.compiler.documents import Document, Documents
from epp.compiler.kinds import KINDS, Role, kinds_of
from epp.compiler.options import Target
from tests.compiler.test_golden import CASES, compiled
from tools.controller_access import MADE, SEEN, WHY, rules

ROOT = Path(__file__).parents[2]


@functools.cache
def emitted(target: Target) -> frozenset[tuple[str, str]]:
    """API group and kind of everything that the golden cases come to."""
    documents = [one.document for case in CASES for one in compiled(case, target).objects]
    return frozenset((one["apiVersion"].rpartition("/")[0], one["kind"]) for one in documents)


def test_the_chart_has_the_rules_that_follow_from_the_kinds() -> None:
    tool = str(ROOT / "tools" / "controller-rbac")
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", Target)
def test_it_may_write_what_is_made_for_its_gateway_and_nothing_more(target: Target) -> None:
    written = {(rule.group, name) for rule in rules(target) if rule.verbs == MADE for name in rule.resources}
    assert written == {(group, plural(kind)) for group, kind in emitted(target)}


@pytest.mark.parametrize("target", Target)
def test_it_may_read_what_it_follows_and_nothing_more(target: Target) -> None:
    read = {
        (rule.group, name)
        for rule in rules(target)
        if set(SEEN) <= set(rule.verbs)
        for name in rule.resources
    }
    assert read == {(kind.group, plural(kind.name)) for kind in kinds_of(target)}
    wide = {name for rule in rules(target) if rule.is_wide for name in rule.resources}
    assert wide == {plural(kind.name) for kind in kinds_of(target) if kind.is_wide}


@pytest.mark.parametrize("target", Target)
def test_what_it_may_beside_is_said_one_by_one(target: Target) -> None:
    others = {
        (rule.group, name): rule.verbs
        for rule in rules(target)
        if rule.verbs not in (MADE, SEEN)
        for name in rule.resources
    }
    assert others == {
        ("inference.llmkube.dev", "inferenceservices/status"): ("patch",),
        ("inference.llmkube.dev", "modelrouters/status"): ("patch",),
        ("", "events"): ("create",),
    }


def test_every_kind_has_its_reason() -> None:
    assert WHY.keys() == {kind.name for kind in KINDS}
    assert all(not (kind.is_told and kind.role is Role.MADE) for kind in KINDS)


def test_kinds_are_called_as_their_definitions_say() -> None:
    called = {
        (spec["group"], spec["names"]["kind"]): spec["names"]["plural"]
        for path in (ROOT / "tests" / "crds").glob("*/*.yaml")
        for spec in [yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]]
    }
    assert called
    found = {
        (kind.group, kind.name): plural(kind.name) for kind in KINDS if (kind.group, kind.name) in called
    }
    assert found == {key: called[key] for key in found}
    not_here = {kind.name for kind in KINDS} - {name for _, name in found}
    assert not_here == {
        "Namespace",
        "Service",
        "EndpointSlice",
        "AgentgatewayBackend",
        "AgentgatewayPolicy",
    }


OF_FILES_ALONE = {"Fleet", "ConfigMap"}
"""ConfigMaps are anybody's: that of Envoy Gateway, with its rate limits, is not worth reading them all."""


@pytest.mark.parametrize("target", Target)
def test_it_follows_whatever_the_compiler_looks_for(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """What files may hold and nobody reads of a cluster would be a trap that only files are told of."""
    asked = set[str]()
    named = Documents._named

    def noted(documents: Documents, kind: str, group: str | None) -> Mapping[tuple[str, str], Document]:
        asked.add(kind)
        return named(documents, kind, group)

    monkeypatch.setattr(Documents, "_named", noted)
    for case in CASES:
        compiled(case, target)
    assert asked - OF_FILES_ALONE <= {kind.name for kind in kinds_of(target)} and "Gateway" in asked
