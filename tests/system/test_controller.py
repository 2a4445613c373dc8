"""``epp controller`` on a real Kubernetes API: what people declare becomes what a gateway needs."""

import json
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.rig.process import wait_until
from tests.system.cluster import LLMKUBE
from tests.system.kube_plane import MISSING, ControlPlane, is_possible, path_of
from tests.system.site import KINDS, ROUTES, Controller, Site, made_for, site_of

pytestmark = [pytest.mark.timeout(900)]  # the first run builds the API server
READER = "reader-token"


@pytest.fixture(scope="module")
def cluster(logs: Path) -> Iterator[ControlPlane]:
    """A Kubernetes API of these tests' own: they stop it, and take kinds away."""
    if not is_possible():
        pytest.skip(MISSING)
    with ControlPlane(logs, users={READER: "reader"}) as plane:
        for crd in KINDS:
            plane.define(crd)
        yield plane


@pytest.fixture
def site(cluster: ControlPlane, logs: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with site_of(cluster, logs, request.node.name) as site:
        yield site


def rests(controller: Controller) -> bool:
    """All is as wanted."""
    try:
        return "fleet_epp_controller_last_success_timestamp_seconds" in controller.series()
    except OSError:  # it has been killed meanwhile, as some are
        return False


def settled(site: Site, controller: Controller, *names: tuple[str, str]) -> None:
    site.wait(*names)
    wait_until(lambda: rests(controller), what="a round without a fault")


def test_it_converges_from_nothing_and_then_writes_nothing(site: Site) -> None:
    site.apply(*site.model("qwen"), *site.model("gemma"), site.router("chat", "qwen", "gemma"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen", "gemma"))
        before, versions = controller.writes(), site.versions()
        # something happens that changes nothing of what is wanted
        site.apply(*site.model("unused"))
        rounds = "fleet_epp_controller_round_seconds_count"
        now = controller.series()[rounds]
        site.plane.patch(path_of(site.model("unused")[0]), {"metadata": {"labels": {"a": "b"}}})
        wait_until(lambda: controller.series()[rounds] > now, what="a round more")
        assert (controller.writes(), site.versions()) == (before, versions)
    with site.controller() as again:
        wait_until(lambda: rests(again), what="a round without a fault")
        assert (again.writes(), site.versions()) == (0, versions)


def test_a_change_is_applied_and_what_is_not_wanted_any_more_goes(site: Site) -> None:
    site.apply(*site.model("qwen"), *site.model("gemma"), site.router("chat", "qwen", "gemma"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen", "gemma"))
        site.apply(site.router("chat", "qwen"))
        site.wait(*made_for("chat", "qwen"))
        site.plane.delete(site.router("chat"))
        site.wait()


def test_drift_is_repaired(site: Site) -> None:
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        wanted = site.content()
        pool = site.live()["InferencePool", "qwen"]
        site.plane.patch(_path(pool), {"spec": {"targetPorts": [{"number": 1}]}})
        wait_until(lambda: site.content() == wanted, what="the port is as it was")
        site.plane.api.ask("DELETE", _path(site.live()["HTTPRoute", "chat"]))
        wait_until(lambda: site.content() == wanted, what="the route is back")
        # what others add is theirs
        site.plane.patch(_path(pool), {"metadata": {"labels": {"theirs": "yes"}}})
        site.plane.patch(_path(pool), {"spec": {"targetPorts": [{"number": 2}]}})
        port = lambda: site.live()["InferencePool", "qwen"]["spec"]["targetPorts"]  # noqa: E731
        wait_until(lambda: bool(port() == [{"number": 8080}]), what="the port is as it was")
        assert site.live()["InferencePool", "qwen"]["metadata"]["labels"]["theirs"] == "yes"


def test_what_somebody_else_made_is_told_and_not_fought(site: Site) -> None:
    foreign = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": site.name},
        "spec": {"hostnames": ["theirs.test"]},
    }
    site.apply(foreign, *site.model("qwen"), site.router("chat", "qwen"))
    before = site.get(foreign)
    with site.controller() as controller:
        wait_until(lambda: controller.says("ObjectTaken"), what="the conflict in the log")
        assert site.get(foreign) == before
        events = f"/api/v1/namespaces/{site.name}/events"
        wait_until(lambda: bool(site.plane.api.ask("GET", events)["items"]), what="an Event")
        (event,) = site.plane.api.ask("GET", events)["items"]
        assert (event["reason"], event["involvedObject"]["name"]) == ("ObjectTaken", "chat")
        assert "it was made by tests" in event["message"]
        site.plane.delete(foreign)
        settled(site, controller, *made_for("chat", "qwen"))


def test_a_broken_router_keeps_what_it_had_and_the_others_live_on(site: Site) -> None:
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        before = site.content()
        broken = site.router("chat", "qwen", defaultRoute="nobody")
        site.apply(broken, *site.model("gemma"), site.router("code", "gemma"))
        site.wait(*made_for("chat", "qwen"), *made_for("code", "gemma"))
        assert site.content()["HTTPRoute", "chat"] == before["HTTPRoute", "chat"]
        ready = lambda: _condition(site.get(broken))  # noqa: E731
        wait_until(lambda: ready().get("status") == "False", what="GatewayReady is False")
        site.apply(site.router("chat", "gemma"))
        wait_until(lambda: ("InferencePool", "qwen") not in site.names(), what="qwen's pool is gone")


def test_the_status_says_what_the_gateway_says(site: Site) -> None:
    router = site.router("chat", "qwen")
    site.apply(*site.model("qwen"), router)
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        wait_until(lambda: bool(_condition(site.get(router))), what="GatewayReady")
        assert "no gateway has accepted it yet" in _condition(site.get(router))["message"]
        route = _path(site.live()["HTTPRoute", "chat"])
        accepted = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-11-21T00:00:00Z",
        }
        parent = {
            "parentRef": {"name": "main", "namespace": "edge"},
            "controllerName": "tests.test/gateway",
            "conditions": [accepted],
        }
        site.plane.patch(f"{route}/status", {"status": {"parents": [parent]}})
        wait_until(lambda: _condition(site.get(router)).get("status") == "True", what="GatewayReady is True")
        assert site.get(router)["status"]["gateway"]["routeReady"] is True
        before = site.get(router)["metadata"]["resourceVersion"]
        site.apply(*site.model("gemma"), site.router("code", "gemma"))
        site.wait(*made_for("chat", "qwen"), *made_for("code", "gemma"))
        assert site.get(router)["metadata"]["resourceVersion"] == before
        unclaimed = {"metadata": {"annotations": {"fleet-epp.dev/claim": None}}}
        site.plane.patch(path_of(router), unclaimed)
        wait_until(lambda: not _condition(site.get(router)), what="our word is taken back")


def test_who_goes_on_writing_the_status_is_told_of_and_not_fought(site: Site) -> None:
    """LLMKube's own operator, which compiles the same objects and says so each time it looks."""
    router = site.router("chat", "qwen")
    site.apply(*site.model("qwen"), router)
    theirs = {
        "type": "GatewayReady",
        "status": "False",
        "reason": "ReconcileFailed",
        "message": "AlreadyOwned",
        "lastTransitionTime": "2026-11-20T00:00:00Z",
    }
    statuses = 'fleet_epp_controller_writes_total{kind="ModelRouter",verb="status"}'
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        wait_until(lambda: bool(_condition(site.get(router))), what="GatewayReady")

        def is_told() -> bool:
            there = site.get(router)
            if _condition(there).get("message") != theirs["message"]:
                others = [one for one in there["status"]["conditions"] if one["type"] != "GatewayReady"]
                there["status"]["conditions"] = [*others, theirs]
                with suppress(urllib.error.HTTPError):  # the controller was quicker: looked at again
                    site.plane.api.ask("PUT", f"{path_of(router)}/status", there)
            return controller.says("StatusFought")

        wait_until(is_told, what="that somebody else writes it", timeout=60)
        assert "goes on writing status.gateway or GatewayReady" in controller.page("/readyz")
        told = controller.series()[statuses]
        rounds = "fleet_epp_controller_round_seconds_count"
        before = controller.series()[rounds]
        wait_until(lambda: is_told() and controller.series()[rounds] > before + 5, what="some rounds more")
        assert controller.series()[statuses] <= told + 3


def test_what_is_refused_for_ever_is_told_as_long_as_it_is(site: Site) -> None:
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": site.name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.name}},
                "resourceRules": [
                    {
                        "apiGroups": ["gateway.networking.k8s.io"],
                        "apiVersions": ["*"],
                        "operations": ["CREATE"],
                        "resources": ["httproutes"],
                    }
                ],
            },
            "validations": [{"expression": "object.metadata.name != 'chat'", "message": "not here"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": site.name},
        "spec": {"policyName": site.name, "validationActions": ["Deny"]},
    }
    site.apply(policy, binding)
    probe = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": site.name},
        "spec": {},
    }
    wait_until(lambda: _is_refused(site, probe), what="the policy is in force", timeout=60)
    router = site.router("chat", "qwen")
    site.apply(*site.model("qwen"), router)
    tries = 'fleet_epp_controller_writes_total{kind="HTTPRoute",verb="create"}'
    with site.controller() as controller:
        wait_until(lambda: controller.series().get(tries, 0) >= 3, what="three tries", timeout=60)
        assert controller.log.read_text().count('"not as it should be"') == 1
        assert not controller.says('"settled"')
        assert "not here" in controller.page("/readyz")
        wait_until(lambda: "not here" in _condition(site.get(router)).get("message", ""), what="the status")
        version = site.get(router)["metadata"]["resourceVersion"]
        before = controller.series()[tries]
        wait_until(lambda: controller.series()[tries] > before, what="one more try", timeout=60)
        assert site.get(router)["metadata"]["resourceVersion"] == version


def _is_refused(site: Site, document: dict[str, object]) -> bool:
    try:
        site.plane.api.ask("POST", f"{path_of(document).rpartition('/')[0]}?dryRun=All", document)
    except urllib.error.HTTPError as refused:
        return refused.code in {403, 422}
    return False


def test_kinds_may_come_later(site: Site) -> None:
    site.plane.undefine(ROUTES)
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as controller:
        wait_until(lambda: controller.says("has no HTTPRoute"), what="that a kind is missing")
        site.plane.define(ROUTES)
        settled(site, controller, *made_for("chat", "qwen"))


def test_with_the_kinds_of_inputs_nothing_goes_that_was_made_of_them(site: Site) -> None:
    """Nobody here collects what has lost its owner, as a whole cluster does."""
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        site.plane.undefine(*LLMKUBE)
        wait_until(lambda: controller.says("ObjectKept"), what="that what was made stays")
        wait_until(lambda: controller.says("does not have a kind any more"), what="that a kind has gone")
        assert site.names() == made_for("chat", "qwen") and controller.deletions() == 0
        for crd in LLMKUBE:
            site.plane.define(crd)
        site.apply(*site.model("gemma"), site.router("code", "gemma"))
        site.wait(*made_for("code", "gemma"), timeout=30)


def test_two_controllers_of_one_inventory_for_two_gateways_leave_each_others_objects_alone(
    site: Site,
) -> None:
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as one:
        settled(site, one, *made_for("chat", "qwen"))
        with site.controller("--target=agentgateway") as other:
            wait_until(lambda: other.says("made for gateway-api"), what="whose it is")
            site.plane.delete(site.router("chat"))
            wait_until(lambda: not site.names(), what="all is gone")
            assert other.deletions() == 0


def test_an_api_that_goes_and_comes_back_is_met_as_before(site: Site) -> None:
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        versions = site.versions()
        site.plane.api.kill()
        wait_until(lambda: "no answer" in controller.page("/readyz"), what="that the API is away", timeout=60)
        site.plane.api.start(timeout=120)
        site.apply(*site.model("gemma"), site.router("code", "gemma"))
        site.wait(*made_for("chat", "qwen"), *made_for("code", "gemma"), timeout=60)
        kept = {key: version for key, version in site.versions().items() if key in versions}
        assert {**kept, ("Service", "fleet-epp-pools"): ""} == {
            **versions,
            ("Service", "fleet-epp-pools"): "",
        }


def test_killed_after_each_write_it_ends_up_the_same(site: Site) -> None:
    site.apply(*site.model("qwen"), *site.model("gemma"), site.router("chat", "qwen"))
    with site.controller() as controller:
        settled(site, controller, *made_for("chat", "qwen"))
        before = site.content()
        site.apply(site.router("chat", "gemma"), site.router("code", "qwen", "gemma"))
        settled(site, controller, *made_for("chat", "qwen", "gemma"), ("HTTPRoute", "code"))
        after = site.content()
    for writes in range(1, 12):
        site.apply(site.router("chat", "qwen"))
        site.plane.delete(site.router("code"))
        with site.controller() as controller:
            wait_until(lambda: site.content() == before, what="as it was before")
        site.apply(site.router("chat", "gemma"), site.router("code", "qwen", "gemma"))
        is_through = not is_killed(site, writes, after)
        with site.controller() as controller:
            wait_until(lambda: site.content() == after, what="as it is to be")
            wait_until(lambda: rests(controller), what="a round without a fault")
        if is_through:
            assert writes > 4, "it was killed too seldom for this to show anything"
            return
    pytest.fail("it was killed after every write and never came to an end")


def is_killed(site: Site, writes: int, after: object) -> bool:
    """Whether it comes to that before all is done."""
    controller = site.controller(killed_after=writes).launch()
    wait_until(
        lambda: controller.has_ended() or (site.content() == after and rests(controller)), what="its end"
    )
    is_over = controller.has_ended()
    controller.stop()
    return is_over


def test_one_of_two_writes_and_the_other_takes_over(site: Site) -> None:
    lease = f"--lease={site.name}/controller"
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    one, two = site.controller(lease), site.controller(lease)
    with one:
        settled(site, one, *made_for("chat", "qwen"))
        with two:
            assert two.series()["fleet_epp_leader"] == 0.0 and two.writes() == 0
            one.terminate()
            wait_until(lambda: two.series()["fleet_epp_leader"] == 1.0, what="the other leads")
            site.apply(*site.model("gemma"), site.router("code", "gemma"))
            site.wait(*made_for("chat", "qwen"), *made_for("code", "gemma"))


def test_what_it_may_not_see_or_write_is_told(site: Site) -> None:
    site.apply(*site.model("qwen"), site.router("chat", "qwen"))
    controller = site.controller(token=READER).launch()
    missing = 'cannot list resource \\"modelrouters\\" in API group \\"inference.llmkube.dev\\"'
    wait_until(lambda: controller.says(missing), what="verb and resource", timeout=60)
    assert not controller.is_ready()
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    subject = {"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    ref = {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    site.apply({**role, "metadata": {"name": "reader"}, "rules": [rule]})
    site.apply({**binding, "metadata": {"name": "reader"}, "subjects": [subject], "roleRef": ref})
    wait_until(
        lambda: controller.says('cannot patch resource \\"services\\"'), what="that it may not", timeout=60
    )
    trouble = json.loads(controller.page("/readyz"))["details"]["trouble"]
    assert any("create Service" in line for line in trouble)
    assert site.names() == set()


def test_fleet_files_are_read_again_and_a_broken_one_changes_nothing(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(_fleet(site, "qwen"))
    with site.controller("--fleet", str(file)) as controller:
        wait_until(lambda: ("InferencePool", "qwen") in site.names(), what="the model's pool")
        before = site.content()
        for slip, told in (
            ("apiVersion: [", "did not find expected node content"),
            (_fleet(site, "gemma").replace("kind: Fleet", "kind: fleet"), "there is no kind"),
            ("", "is empty"),
        ):
            file.write_text(slip)
            wait_until(lambda told=told: controller.says(told), what="that the file is broken")  # type: ignore[misc]
            (trouble,) = json.loads(controller.page("/readyz"))["details"]["trouble"]
            assert "what it said last stays" in trouble
            assert site.content() == before
        file.write_text(_fleet(site, "gemma"))
        wait_until(lambda: ("InferencePool", "gemma") in site.names(), what="the other model's pool")
        wait_until(lambda: ("InferencePool", "qwen") not in site.names(), what="the first one's is gone")


def _fleet(site: Site, model: str) -> str:
    return f"""\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {{name: site, namespace: {site.name}}}
gateway: edge/main
models:
- {{name: {model}, pods: {{app: {model}}}, port: 8080}}
"""


def _condition(document: dict[str, object]) -> dict[str, str]:
    status = document.get("status") or {}
    assert isinstance(status, dict)
    found = (one for one in status.get("conditions") or () if one["type"] == "GatewayReady")
    return next(found, {})


def _path(live: dict[str, object]) -> str:
    kinds = {"InferencePool": "inference.networking.k8s.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1"}
    kind = str(live.get("kind") or ("HTTPRoute" if "parentRefs" in json.dumps(live) else "InferencePool"))
    return path_of({**live, "apiVersion": kinds[kind], "kind": kind})
