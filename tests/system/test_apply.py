"""``epp plan`` and ``epp apply`` on a real Kubernetes API, as a CI job would use them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.cluster import CRDS
from tests.system.kube_plane import MISSING, ControlPlane, is_possible, mended
from tests.system.site import KINDS, ROOT, Site, made_for, site_of

pytestmark = [pytest.mark.timeout(900)]  # the first run builds the API server
TARGET = "--target=gateway-api"
ENVOY = sorted(
    path
    for gateway in ("envoy-ai-gateway-v1.1.0", "envoy-gateway-v1.8.1")
    for path in (CRDS / gateway).glob("*.yaml")
)
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*/fleet.yaml"))


@pytest.fixture(scope="module")
def cluster(logs: Path) -> Iterator[ControlPlane]:
    if not is_possible():
        pytest.skip(MISSING)
    with ControlPlane(logs, users={}) as plane:
        for crd in KINDS:
            plane.define(crd)
        yield plane


@pytest.fixture
def site(cluster: ControlPlane, logs: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with site_of(cluster, logs, request.node.name) as site:
        yield site


@pytest.fixture
def file(site: Site, tmp_path: Path) -> Path:
    """A router of two models."""
    return written(tmp_path / "fleet.yaml", site, "qwen", "gemma")


def written(path: Path, site: Site, *models: str) -> Path:
    objects = [one for model in models for one in site.model(model)]
    path.write_text(yaml.safe_dump_all([*objects, site.router("chat", *models)]))
    return path


def test_a_plan_shows_what_apply_does_and_then_nothing_is_left(site: Site, file: Path) -> None:
    plan = site.epp("plan", "-f", str(file), TARGET)
    assert plan.returncode == 0, plan.stderr
    assert "+ create HTTPRoute" in plan.stdout and "4 to create, 0 to change, 0 to delete" in plan.stdout
    assert site.names() == set()
    changes = site.epp("plan", "-f", str(file), TARGET, "--detailed-exitcode")
    assert changes.returncode == 3
    applied = site.epp("apply", "-f", str(file), TARGET, "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert "4 steps: 4 done" in applied.stdout
    assert site.names() == made_for("chat", "qwen", "gemma")
    versions = site.versions()
    again = site.epp("apply", "-f", str(file), TARGET, "--yes")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    rest = site.epp("plan", "-f", str(file), TARGET, "--detailed-exitcode")
    assert (rest.returncode, site.versions()) == (0, versions)


def test_what_is_not_said_any_more_goes_from_within_a_rule(site: Site, file: Path) -> None:
    """The API notes no fields below a route's rules: they are one value to it."""
    narrow = {"models": ["qwen"], "headers": {"x-team": "red"}}
    router = site.router("chat", "qwen")
    rule = router["spec"]["rules"][0]
    file.write_text(yaml.safe_dump_all([*site.model("qwen"), {**router, "spec": _with(router, narrow)}]))
    assert site.epp("apply", "-f", str(file), TARGET, "--yes").returncode == 0
    assert "x-team" in str(site.live()["HTTPRoute", "chat"]["spec"])
    file.write_text(
        yaml.safe_dump_all([*site.model("qwen"), {**router, "spec": _with(router, rule["match"])}])
    )
    plan = site.epp("plan", "-f", str(file), TARGET)
    assert "1 to change" in plan.stdout and "x-team" in plan.stdout
    assert site.epp("apply", "-f", str(file), TARGET, "--yes").returncode == 0
    assert "x-team" not in str(site.live()["HTTPRoute", "chat"]["spec"])
    assert "nothing to do" in site.epp("plan", "-f", str(file), TARGET).stdout


def _with(router: dict[str, Any], match: dict[str, Any]) -> dict[str, Any]:
    spec = router["spec"]
    return {**spec, "rules": [{**spec["rules"][0], "match": match}]}


def test_a_change_is_shown_as_the_lines_that_change(site: Site, file: Path) -> None:
    site.epp("apply", "-f", str(file), TARGET, "--yes")
    file.write_text(file.read_text().replace("port: 8080", "port: 9090"))
    plan = site.epp("plan", "-f", str(file), TARGET, "--color=always")
    shown = re.sub("\x1b\\[[0-9]+m", "", plan.stdout)
    assert "\x1b[32m" in plan.stdout
    assert "~ change InferencePool" in shown
    changed = re.findall(r"^    ([+-]).*?(\S+)$", shown, re.MULTILINE)
    assert changed == [("-", "8080"), ("+", "9090")] * 2, shown
    assert "0 to create, 2 to change, 0 to delete" in shown


def test_deletions_need_prune(site: Site, file: Path) -> None:
    site.epp("apply", "-f", str(file), TARGET, "--yes")
    written(file, site, "qwen")
    kept = site.epp("apply", "-f", str(file), TARGET, "--yes")
    assert kept.returncode == 0 and "1 not deleted: give --prune" in kept.stdout
    assert ("InferencePool", "gemma") in site.names()
    pruned = site.epp("apply", "-f", str(file), TARGET, "--yes", "--prune")
    assert pruned.returncode == 0, pruned.stdout
    assert site.names() == made_for("chat", "qwen")


def test_nobody_who_cannot_be_asked_is_asked(site: Site, file: Path) -> None:
    refused = site.epp("apply", "-f", str(file), TARGET)
    assert refused.returncode == 2 and "give --yes" in refused.stderr
    assert site.names() == set()


def test_two_sets_of_files_do_not_prune_each_other(site: Site, file: Path) -> None:
    other = file.with_name("other.yaml")
    other.write_text(yaml.safe_dump_all([*site.model("phi"), site.router("code", "phi")]))
    site.epp("apply", "-f", str(file), TARGET, "--yes")
    pruned = site.epp("apply", "-f", str(other), TARGET, "--yes", "--prune")
    assert pruned.returncode == 0, pruned.stdout
    assert f"of ModelRouter/{site.name}/chat, not in these files alone" in pruned.stdout
    assert site.names() == made_for("chat", "qwen", "gemma") | made_for("code", "phi")
    assert site.epp("apply", "-f", str(file.parent), TARGET, "--yes", "--prune").returncode == 0
    assert site.names() == made_for("chat", "qwen", "gemma") | made_for("code", "phi")


def test_routes_for_another_gateway_go_with_the_target(site: Site, tmp_path: Path) -> None:
    for crd in ENVOY:
        site.plane.define(mended(crd, tmp_path))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        f"apiVersion: fleet-epp.dev/v1alpha1\nkind: Fleet\nmetadata: {{name: lab, namespace: {site.name}}}\n"
        "gateway: edge/main\nmodels: [{name: qwen, pods: {app: qwen}}]\n"
    )
    site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}})
    old, new = "--target=envoy-ai-gateway-1.1", TARGET
    assert site.epp("apply", "-f", str(fleet), old, "--yes").returncode == 0
    before = site.count()
    planned = site.epp("plan", "-f", str(fleet), new).stdout
    assert "- delete AIGatewayRoute" in planned
    pruned = site.epp("apply", "-f", str(fleet), new, "--yes", "--prune")
    assert pruned.returncode == 0, pruned.stdout
    assert site.names() == made_for("lab", "qwen") and site.count() == 3 < before


def test_what_somebody_else_made_is_an_error_before_anything_is_done(site: Site, file: Path) -> None:
    foreign = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": site.name},
        "spec": {"hostnames": ["theirs.test"]},
    }
    site.apply(foreign)
    applied = site.epp("apply", "-f", str(file), TARGET, "--yes")
    assert applied.returncode == 1
    assert "it was made by tests and has no label" in applied.stdout and "nothing was done" in applied.stderr
    assert site.names() == set()


def test_a_broken_input_stops_it_and_partial_applies_the_rest(site: Site, file: Path) -> None:
    site.epp("apply", "-f", str(file), TARGET, "--yes")
    broken = site.router("chat", "qwen", "gemma", defaultRoute="nobody")
    models = [each for name in ("qwen", "gemma", "phi") for each in site.model(name)]
    others = [site.router("code", "phi"), site.router("late", "qwen")]  # the broken one's name stays its own
    file.write_text(yaml.safe_dump_all([*models, broken, *others]))
    before = site.content()
    stopped = site.epp("apply", "-f", str(file), TARGET, "--yes", "--prune")
    assert stopped.returncode == 1 and site.content() == before
    partial = site.epp("apply", "-f", str(file), TARGET, "--yes", "--prune", "--partial")
    assert partial.returncode == 1
    assert site.names() == made_for("chat", "qwen", "gemma") | made_for("code", "phi")
    assert site.content()["HTTPRoute", "chat"] == before["HTTPRoute", "chat"]


def test_a_file_that_cannot_be_read_changes_nothing(site: Site, file: Path) -> None:
    site.epp("apply", "-f", str(file), TARGET, "--yes")
    (file.parent / "second.yaml").write_text("kind: [")
    refused = site.epp("apply", "-f", str(file.parent), TARGET, "--yes", "--prune")
    assert refused.returncode == 1 and "second.yaml" in refused.stderr
    assert site.names() == made_for("chat", "qwen", "gemma")


def test_it_waits_for_the_gateway_and_says_what_is_missing(site: Site, file: Path) -> None:
    waited = site.epp("apply", "-f", str(file), TARGET, "--yes", "--wait", "--timeout=1")
    assert waited.returncode == 1
    assert "after 1 s: HTTPRoute" in waited.stdout and "no gateway has accepted it yet" in waited.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_is_applied_and_pruned(site: Site, example: Path, tmp_path: Path) -> None:
    envoy = "--target=envoy-ai-gateway-1.1"
    fleet = yaml.safe_load(example.read_text())
    for crd in ENVOY:
        site.plane.define(mended(crd, tmp_path))
    for namespace in (fleet["metadata"]["namespace"], fleet["gateway"].partition("/")[0]):
        site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    applied = site.epp("apply", "-f", str(example), envoy, "--yes")
    steps = re.search(r"(\d+) steps: \1 done", applied.stdout)
    assert steps is not None, applied.stdout[-3000:] + applied.stderr
    assert applied.returncode == 0, applied.stdout[-3000:]
    assert site.count() == int(steps[1]) > len(fleet["models"])
    again = site.epp("plan", "-f", str(example), envoy, "--detailed-exitcode")
    assert again.returncode == 0, again.stdout[-3000:]
    empty = tmp_path / "empty.yaml"
    empty.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: any}\n")
    kept = site.epp("apply", "-f", str(empty), envoy, "--yes", "--prune")
    assert kept.returncode == 0, kept.stdout
    assert (site.count(), "--prune-all would delete" in kept.stdout) == (int(steps[1]), True)
    pruned = site.epp("apply", "-f", str(empty), envoy, "--yes", "--prune-all")
    assert pruned.returncode == 0, pruned.stdout
    assert site.count() == 0
