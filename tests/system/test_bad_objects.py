"""Objects that say what cannot be carried out, in a real Kubernetes API.

Each is one finding in the metric and one line in the log, the pool serves as before, and the finding goes
with its cause. What the kinds of today refuse by themselves is let through first, as CRDs of other days do.
"""

import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.cluster import (
    AGENTS,
    NEW_KINDS,
    OLD_GROUP,
    OLD_KINDS,
    POOLS,
    Stage,
    detail,
    picked,
    said,
    wait_serving,
)
from tests.system.kube_plane import MISSING, ControlPlane, is_possible, path_of
from tests.system.talk import series

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

POD = "127.0.0.45"
Object = Mapping[str, Any]
FINDINGS = "fleet_epp_kubernetes_findings"


# --- a pool that serves ------------------------------------------------------------------------------


class Pool:
    """A pool of one pod, and the picker that follows it."""

    def __init__(self, stage: Stage, picker: Picker) -> None:
        self.stage = stage
        self.picker = picker

    def findings(self) -> float | None:
        return series(self.picker).get(FINDINGS)

    def serves(self) -> bool:
        return picked(self.picker, 5) == {f"{POD}:{self.stage.port}"}


@pytest.fixture(scope="module")
def _pool(plane: ControlPlane, logs: Path) -> Iterator[Pool]:
    kinds = (POOLS, *NEW_KINDS, *OLD_KINDS)
    for crd in kinds:
        plane.define(crd)
    with ExitStack() as parts:
        stage = Stage(plane, logs, "bad-objects", parts)
        for bad in (twice(stage), weightless(stage)):
            with pytest.raises(urllib.error.HTTPError, match="422"):
                stage.apply(bad)
        for crd in kinds:
            parts.callback(plane.define, crd)
            plane.define(crd, checked=False)
        for bad in (twice(stage), weightless(stage)):
            wait_until(lambda bad=bad: is_let_through(plane, bad), what="an API that checks nothing")
        stage.gate(POD)
        stage.apply(stage.pool(slices=AGENTS), stage.pod("pod", POD))
        picker = parts.enter_context(stage.picker())
        wait_serving(picker, "pod-rank-0")
        yield Pool(stage, picker)


def is_let_through(plane: ControlPlane, document: Object) -> bool:
    how = "fieldManager=tests&force=true&dryRun=All"
    try:
        plane.api.ask("PATCH", f"{path_of(document)}?{how}", document, kind="apply-patch+yaml")
    except urllib.error.HTTPError:
        return False
    return True


@pytest.fixture
def pool(_pool: Pool) -> Iterator[Pool]:
    """Serving, with nothing to be corrected before and after."""
    assert _pool.findings() == 0, detail(_pool.picker)
    yield _pool
    assert _pool.serves()
    assert "Traceback" not in _pool.picker.log.read_text()


# --- what is wrong -----------------------------------------------------------------------------------


def nowhere(stage: Stage) -> Object:
    pool = stage.pool(slices=AGENTS)
    pool["spec"]["endpointPickerRef"]["name"] = "nobody"
    return pool


def twice(stage: Stage) -> Object:
    return stage.pool(slices=AGENTS, ports=(stage.port, stage.port))


def unreadable(stage: Stage) -> Object:
    pool = stage.pool(slices=AGENTS)
    pool["spec"]["targetPorts"] = [{"number": "eight"}]
    return pool


def overlapping(stage: Stage) -> Object:
    other = stage.pool()
    other["metadata"]["name"] = "bad-objects-too"
    return other


def rewrite(stage: Stage, name: str, **models: Any) -> Object:
    """From each model to another."""
    rules = [
        {"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": target, "weight": 1}]}
        for model, target in models.items()
    ]
    return stage.asking("InferenceModelRewrite", name, "llm-d.ai", rules=rules)


def weightless(stage: Stage) -> Object:
    bad = stage.asking("InferenceModelRewrite", "weightless", "llm-d.ai", rules=[])
    bad["spec"]["rules"] = [{"targets": [{"modelRewrite": "phi", "weight": 0}]}]
    return bad


def objective(stage: Stage, name: str, pool: str = "", *, group: str = "llm-d.ai") -> Object:
    ref = {"name": pool or stage.name}
    return {**stage.asking("InferenceObjective", name, group), "spec": {"poolRef": ref, "priority": 1}}


def annotated(stage: Stage, **labels: str) -> Object:
    pod = stage.pod("pod", POD)
    pod["metadata"]["annotations"] = {f"fleet-epp.dev/{key}": value for key, value in labels.items()}
    return pod


def beating(stage: Stage, *, beat: str = "2026-11-21T10:00:00Z") -> Object:
    """A slice of no servers; its agent's heartbeat."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "macs",
            "namespace": "models",
            "labels": {"llmkube.ai/managed-by": "metal-agent"},
            "annotations": {"llmkube.ai/agent-heartbeat": beat},
        },
        "addressType": "IPv4",
        "endpoints": [],
    }


WRONG: dict[str, tuple[Callable[[Stage], Object], Callable[[Stage], Object] | None, str]] = {
    "its-picker-is-no-service": (
        nowhere,
        lambda stage: stage.pool(slices=AGENTS),
        "there is no Service nobody, which it names as its picker",
    ),
    "a-port-twice": (
        twice,
        lambda stage: stage.pool(slices=AGENTS),
        "is there twice: it counts once",
    ),
    "a-port-that-is-no-number": (
        unreadable,
        lambda stage: stage.pool(slices=AGENTS),
        "inferencepools bad-objects is not understood, what it said before stays",
    ),
    "a-pod-of-two-pools": (
        overlapping,
        None,
        "pod pod belongs to InferencePool bad-objects-too as well",
    ),
    "an-objective-for-no-pool": (
        lambda stage: objective(stage, "lost", "qven"),
        lambda stage: objective(stage, "lost"),
        "InferenceObjective lost: there is no InferencePool qven: create it or correct poolRef",
    ),
    "a-rewrite-for-no-pool": (
        lambda stage: {
            **rewrite(stage, "lost", qwen="phi"),
            "spec": {"poolRef": {"name": "qven"}, "rules": []},
        },
        None,
        "InferenceModelRewrite lost: there is no InferencePool qven: create it or correct poolRef",
    ),
    "an-objective-that-cannot-be-read": (
        lambda stage: {**objective(stage, "odd"), "spec": {"poolRef": {"name": stage.name}, "priority": "x"}},
        lambda stage: objective(stage, "odd"),
        "inferenceobjectives.llm-d.ai odd is not understood",
    ),
    "both-groups": (
        lambda stage: objective(stage, "batch", group=OLD_GROUP),
        None,
        f"InferenceObjective batch of {OLD_GROUP}: passed over",
    ),
    "a-weight-of-0": (
        weightless,
        lambda stage: rewrite(stage, "weightless", qwen="phi"),
        "rules[0].targets[0].weight must be at least 1, got 0",
    ),
    "rules-that-are-a-loop": (
        lambda stage: rewrite(stage, "loop", qwen="phi", phi="qwen"),
        lambda stage: rewrite(stage, "loop", qwen="phi"),
        "its rules are a loop: phi to qwen to phi",
    ),
    "active-ports-of-rubbish": (
        lambda stage: stage.pod("pod", POD, active="all of them"),
        lambda stage: stage.pod("pod", POD),
        "annotation llm-d.ai/active-ports: 'all of them' is no port; all of the pool's count",
    ),
    "an-active-port-of-another-pool": (
        lambda stage: stage.pod("pod", POD, active=f"{stage.port},1"),
        lambda stage: stage.pod("pod", POD),
        "annotation llm-d.ai/active-ports: 1 is none of the pool's target ports",
    ),
    "a-tier-of-rubbish": (
        lambda stage: annotated(stage, tier="\u2460"),
        lambda stage: annotated(stage, tier="1"),
        "fleet-epp.dev/tier must be from 0 to",
    ),
    "an-engine-of-rubbish": (
        lambda stage: annotated(stage, engine="vlm"),
        lambda stage: annotated(stage, engine="vllm"),
        "fleet-epp.dev/engine names the unknown engine 'vlm': use ",
    ),
    "a-ready-pod-without-an-address": (
        lambda stage: stage.pod("new", None),
        lambda stage: stage.pod("new", None, ready=False),
        "pod new: it is Ready without an address: see its node",
    ),
    "a-selector-of-slices-that-is-none": (
        lambda stage: stage.pool(slices="a in (b"),
        lambda stage: stage.pool(slices=AGENTS),
        "unable to parse requirement: found '', expected: ',' or ')': correct annotation",
    ),
    "a-heartbeat-of-rubbish": (
        lambda stage: beating(stage, beat="now and then"),
        beating,
        "annotation llmkube.ai/agent-heartbeat is no time: 'now and then'",
    ),
}


@pytest.mark.parametrize("wrong, right, text", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_one_finding_and_one_line_and_stops_nothing(
    wrong: Callable[[Stage], Object], right: Callable[[Stage], Object] | None, text: str, pool: Pool
) -> None:
    stage, picker = pool.stage, pool.picker
    stage.apply(wrong(stage))
    wait_until(lambda: pool.findings() == 1, what=f"{text}, not {detail(picker)}")
    assert text in detail(picker)
    assert (said(picker, text), pool.serves()) == (1, True)
    if right is None:
        stage.delete(wrong(stage))
    else:
        stage.apply(right(stage))
    wait_until(lambda: pool.findings() == 0, what=f"nothing of {text}, not {detail(picker)}")
    assert said(picker, text) == 2, "that it is so, and that it is settled"


def test_all_of_it_at_once(pool: Pool) -> None:
    stage, picker = pool.stage, pool.picker
    together = ["its-picker-is-no-service", "a-pod-of-two-pools", "an-objective-for-no-pool", "both-groups"]
    together += ["a-weight-of-0", "rules-that-are-a-loop", "active-ports-of-rubbish"]
    for name in together:
        stage.apply(WRONG[name][0](stage))
    wait_until(lambda: pool.findings() == len(together), what=f"{len(together)} findings")
    assert pool.serves()
    for name in together:
        wrong, right, _ = WRONG[name]
        if right is None:
            stage.delete(wrong(stage))
        else:
            stage.apply(right(stage))
    wait_until(lambda: pool.findings() == 0, what=f"nothing, not {detail(picker)}")
