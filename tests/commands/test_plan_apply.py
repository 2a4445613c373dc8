"""What ``plan`` and ``apply`` say and do, on a cluster in a few lines.

On a real one: tests/system/test_apply.py.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from epp.commands import apply, listing, plan
from epp.compiler.marks import sources_of
from epp.compiler.options import Target
from epp.controller.difference import key_of
from tests.commands.model_cluster import ModelCluster, Object

FLEET = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {{name: {name}, namespace: {name}}}
gateway: edge/{name}
models:
- {{name: qwen, pods: {{app: qwen}}}}
- {{name: phi, pods: {{app: phi}}}}
"""
ROUTER = """\
apiVersion: inference.llmkube.dev/v1alpha1
kind: ModelRouter
metadata: {name: chat, namespace: llm}
spec:
  dataPlane: Gateway
  gatewayRef: {name: east, namespace: edge}
  backends: [{name: gpt, external: {provider: litellm, model: gpt, url: "http://gpt.example.com/v1"}}]
  rules: [{name: gpt, match: {models: [gpt]}, route: {backends: [gpt]}}]
"""
OPEN = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: open, namespace: east}
gateway: edge/east
models: [{name: phi, pods: {app: phi}}]
"""
BESIDE = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: beside, namespace: east}
gateway: edge/west
models: [{name: gemma, pods: {app: gemma}, owner: bob}]
"""
CLOSED = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: closed, namespace: west}
gateway: edge/east
models: [{name: gpt, provider: openai, secret: s}]
auth: {issuer: "https://idp.example.com", jwks: "https://idp.example.com/keys"}
teams: [{name: x}]
"""
NAMESPACES = ("east", "west", "north", "llm", "edge")
GATEWAYS = "gateway.networking.k8s.io/v1"
ENVOY = "--target=envoy-ai-gateway-1.1"
AGENT = "--target=agentgateway"


def gateway(name: str) -> Object:
    meta = {"name": name, "namespace": "edge"}
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": 80,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    spec = {"gatewayClassName": "main", "listeners": [listener]}
    return {"apiVersion": GATEWAYS, "kind": "Gateway", "metadata": meta, "spec": spec}


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


class Desk:
    """Somebody at the command line, with files and a cluster."""

    def __init__(self, cluster: ModelCluster, folder: Path, read: Callable[[], str]) -> None:
        self.cluster, self._folder, self._read = cluster, folder, read

    def file(self, name: str, text: str = "") -> str:
        path = self._folder / f"{name}.yaml"
        path.write_text(text or FLEET.format(name=name), encoding="utf-8")
        return str(path)

    def plan(self, *arguments: str) -> tuple[int, str]:
        return plan.run(["-f", *arguments]), self._read()

    def apply(self, *arguments: str) -> tuple[int, str]:
        return apply.run(["-f", *arguments, "--yes"]), self._read()

    def ports(self) -> list[int]:
        """Of the picker's Service in the namespace east."""
        return [one["port"] for one in self._object("Service", "fleet-epp-pools")["spec"]["ports"]]

    def sources(self, kind: str, name: str) -> set[str]:
        """What an object there was made for."""
        return set(sources_of(self._object(kind, name)))

    def _object(self, kind: str, name: str) -> Object:
        wanted = (kind, "east", name)
        return next(one for one in self.cluster.objects.values() if key_of(one) == wanted)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(ModelCluster(), tmp_path, lambda: "".join(capsys.readouterr()))
    made.cluster.put(gateway("east"), gateway("west"), *map(namespace, NAMESPACES))
    for command in (plan, apply):
        monkeypatch.setattr(command, "api_of", lambda _: made.cluster)
    return made


class TestPruning:
    def test_what_other_files_asked_for_is_kept_and_named(self, desk: Desk) -> None:
        east, west = desk.file("east"), desk.file("west")
        assert desk.apply(east, ENVOY)[0] == 0
        before = set(desk.cluster.objects)
        status, said = desk.apply(west, ENVOY, "--prune")
        assert status == 0
        assert before <= set(desk.cluster.objects)
        assert "of Fleet/east/east, not in these files alone: --prune-all would delete" in said
        assert "0 to delete" in said

    def test_a_part_of_these_files_that_is_not_wanted_goes(self, desk: Desk) -> None:
        file = desk.file("east")
        desk.apply(file, ENVOY)
        assert desk.cluster.names("InferencePool") == {"east/qwen", "east/phi"}
        desk.file("east", FLEET.format(name="east").replace("- {name: phi, pods: {app: phi}}\n", ""))
        assert "kept:" not in desk.plan(file, ENVOY)[1]
        assert desk.apply(file, ENVOY, "--prune")[0] == 0
        assert desk.cluster.names("InferencePool") == {"east/qwen"}

    def test_all_of_it_goes_when_that_is_said(self, desk: Desk) -> None:
        east, west = desk.file("east"), desk.file("west")
        desk.apply(east, ENVOY)
        planned = desk.plan(west, ENVOY, "--prune-all")[1]
        assert "- delete InferencePool east/qwen" in planned
        assert desk.apply(west, ENVOY, "--prune-all")[0] == 0
        assert desk.cluster.names("InferencePool") == {"west/qwen", "west/phi"}

    def test_a_plan_without_changes_of_its_own_has_none(self, desk: Desk) -> None:
        east, west = desk.file("east"), desk.file("west")
        desk.apply(east, ENVOY)
        desk.apply(west, ENVOY)
        assert desk.plan(west, ENVOY, "--detailed-exitcode")[0] == 0

    def test_nothing_is_left_for_a_second_run(self, desk: Desk) -> None:
        file = desk.file("east")
        desk.apply(file, ENVOY)
        desk.file("east", FLEET.format(name="east").replace("- {name: phi, pods: {app: phi}}\n", ""))
        status, said = desk.apply(file, ENVOY, "--prune")
        assert status == 0
        assert "what was open until the deletions:\n[1/1] change Service east/fleet-epp-pools: done" in said
        assert desk.plan(file, ENVOY, "--detailed-exitcode")[0] == 0


class TestFilesOneAfterTheOther:
    """Of one inventory: the second does not undo the first."""

    def test_a_service_gets_the_ports_of_both(self, desk: Desk) -> None:
        first, second = desk.file("east"), desk.file("open", BESIDE)
        desk.apply(first, ENVOY)
        assert desk.apply(second, ENVOY, "--prune")[0] == 0
        assert len(desk.ports()) == 3
        assert desk.sources("Service", "fleet-epp-pools") >= {"Fleet/east/east", "Fleet/east/beside"}
        assert "nothing to do" in desk.plan(first, ENVOY)[1]
        desk.file("open", BESIDE.replace("pods: {app: gemma}", "provider: openai, secret: s"))
        status, said = desk.apply(second, ENVOY, "--prune")
        assert status == 0, said
        assert "of Fleet/east/beside, Fleet/east/east, not in these files alone" in said
        assert len(desk.ports()) == 3

    def test_a_model_of_the_same_name_is_not_rewritten(self, desk: Desk) -> None:
        desk.apply(desk.file("east"), ENVOY)
        before = dict(desk.cluster.objects)
        other = desk.file("other", BESIDE.replace("gemma", "phi").replace("app: phi", "app: other"))
        for status, said in (desk.plan(other, ENVOY), desk.apply(other, ENVOY, "--prune")):
            assert status == 1
            assert "InferencePool east/phi: it would change, and was made for Fleet/east/east, not in" in said
            assert "give the file of that, too (-f A -f B); where it is gone for good, all files" in said
        assert desk.cluster.objects == before

    def test_an_open_gateway_is_not_closed(self, desk: Desk) -> None:
        desk.apply(desk.file("open", OPEN), ENVOY)
        before = dict(desk.cluster.objects)
        status, said = desk.apply(desk.file("closed", CLOSED), ENVOY, "--prune")
        assert status == 1
        assert "it would be for a Gateway that serves Fleet/east/open, not in these files" in said
        assert desk.cluster.objects == before

    def test_a_closed_gateway_is_not_opened(self, desk: Desk) -> None:
        desk.apply(desk.file("closed", CLOSED), ENVOY)
        before = dict(desk.cluster.objects)
        status, said = desk.apply(desk.file("open", OPEN), ENVOY, "--prune")
        assert (status, "ClientTrafficPolicy edge/" in said) == (1, True)
        assert desk.cluster.objects == before

    def test_what_others_have_beside_it_is_kept(self, desk: Desk) -> None:
        desk.apply(desk.file("closed", CLOSED), AGENT)
        before = desk.cluster.names("AgentgatewayPolicy")
        assert desk.apply(desk.file("open", OPEN), AGENT, "--prune")[0] == 0
        assert desk.cluster.names("AgentgatewayPolicy") == before

    @pytest.mark.parametrize("listener, is_theirs", [("http", True), ("other", False)])
    def test_another_listener_is_another_place(self, listener: str, is_theirs: bool, desk: Desk) -> None:
        west, east = (text.replace("gateway: edge/east\n", "") for text in (CLOSED, OPEN))
        desk.apply(desk.file("open", east), ENVOY, "--gateway=edge/east/http")
        _, said = desk.plan(desk.file("closed", west), ENVOY, f"--gateway=edge/east/{listener}")
        theirs = "it would be for a Gateway that serves Fleet/east/open" in said
        assert theirs is is_theirs, said

    def test_who_is_gone_for_good_is_asked_no_more(self, desk: Desk) -> None:
        desk.apply(desk.file("open", OPEN), ENVOY)
        renamed = desk.file("open", OPEN.replace("name: open", "name: public").replace("app: phi", "app: p"))
        assert desk.apply(renamed, ENVOY, "--prune")[0] == 1
        assert desk.apply(renamed, ENVOY, "--prune-all")[0] == 0
        assert desk.sources("InferencePool", "phi") >= {"Fleet/east/public"}
        assert "nothing to do" in desk.plan(renamed, ENVOY)[1]

    def test_a_service_that_a_pool_asks_for_stays(self, desk: Desk) -> None:
        file = desk.file("open", OPEN)
        desk.apply(file, ENVOY)
        for one in desk.cluster.objects.values():
            if one["kind"] == "InferencePool":
                one["metadata"]["labels"] = {}
        desk.file("open", OPEN.replace("pods: {app: phi}", "provider: openai, secret: s"))
        status, said = desk.apply(file, ENVOY, "--prune")
        assert status == 0, said
        assert "kept: Service east/fleet-epp-pools: InferencePools that stay ask for it" in said
        assert desk.ports()


class TestAnotherTarget:
    def test_routes_of_the_old_one_go(self, desk: Desk) -> None:
        file = desk.file("east")
        desk.apply(file, ENVOY)
        assert desk.cluster.names("AIGatewayRoute")
        planned = desk.plan(file, AGENT)[1]
        assert "- delete AIGatewayRoute east/" in planned
        status, said = desk.apply(file, AGENT, "--prune")
        assert status == 0, said
        assert not desk.cluster.names("AIGatewayRoute") and desk.cluster.names("HTTPRoute")

    def test_kinds_that_may_not_be_looked_through_are_named(self, desk: Desk) -> None:
        desk.cluster.closed = {"AIGatewayRoute"}
        status, said = desk.plan(desk.file("east"), AGENT)
        assert status == 0
        assert "not looked for: what was made for other targets and may not be listed: AIGatewayRoute" in said

    def test_its_own_kinds_have_to_be_listed(self, desk: Desk) -> None:
        desk.cluster.closed = {"AIGatewayRoute"}
        status, said = desk.plan(desk.file("east"), ENVOY)
        assert status == 1
        assert (
            "the cluster cannot be read: aigatewayroutes.aigateway.envoyproxy.io: the API answers 403" in said
        )


class TestWhatIsNotThere:
    @pytest.mark.parametrize("target", Target)
    def test_a_gateway_is_told(self, target: Target, desk: Desk) -> None:
        assert "GatewayNotFound" not in desk.plan(desk.file("east"), f"--target={target}")[1]
        status, said = desk.plan(desk.file("north"), f"--target={target}")
        assert status == 0
        assert "there is no Gateway edge/north: nobody serves what is made for it" in said

    def test_namespaces_are_told_once_each_before_anything_is_written(self, desk: Desk) -> None:
        file = desk.file("lab")
        before = dict(desk.cluster.objects)
        for status, said in (desk.plan(file, ENVOY), desk.apply(file, ENVOY)):
            assert (status, said.count("NamespaceNotFound")) == (1, 1)
            assert "kubectl create namespace lab" in said
        assert desk.cluster.objects == before
        desk.cluster.closed = {"Namespace"}
        assert "NamespaceNotFound" not in desk.plan(file, ENVOY)[1]

    def test_nothing_is_said_of_gateways_that_may_not_be_seen(self, desk: Desk) -> None:
        desk.cluster.closed = {"Gateway"}
        assert "GatewayNotFound" not in desk.plan(desk.file("north"), ENVOY)[1]

    def test_objects_of_files_are_compiled_without_a_claim(self, desk: Desk) -> None:
        assert "+ create AIGatewayRoute llm/chat" in desk.plan(desk.file("llmkube", ROUTER), ENVOY)[1]

    def test_kinds_are_told_once_each_before_anything_is_written(self, desk: Desk) -> None:
        there = ModelCluster(absent={"AIGatewayRoute", "BackendTrafficPolicy"})
        there.put(gateway("east"), namespace("east"), namespace("edge"))
        desk.cluster, file = there, desk.file("east")
        before = dict(there.objects)
        for status, said in (desk.plan(file, ENVOY), desk.apply(file, ENVOY)):
            assert status == 1
            assert said.count("GatewayCRDsNotInstalled") == 2
            assert "AIGatewayRoute of aigateway.envoyproxy.io/v1beta1" in said
        assert there.objects == before
        assert desk.apply(file, ENVOY, "--partial")[0] == 1
        assert there.names("InferencePool") == {"east/qwen", "east/phi"}


class TestWords:
    def test_nothing_to_do_is_only_said_where_all_is_well(self, desk: Desk) -> None:
        file = desk.file("east")
        desk.apply(file, ENVOY)
        assert "nothing to do" in desk.plan(file, ENVOY)[1]
        desk.file("east", FLEET.format(name="east").replace("gateway:", "gatway:"))
        status, said = desk.plan(file, ENVOY)
        assert status == 1
        assert "kept: InferencePool east/phi" in said
        assert said.endswith("0 to create, 0 to change, 0 to delete\n")

    def test_an_object_of_another_inventory_is_not_to_be_taken_from_it(self, desk: Desk) -> None:
        file = desk.file("east")
        desk.apply(file, ENVOY, "--inventory=first")
        status, said = desk.plan(file, ENVOY, "--inventory=second")
        assert status == 1
        assert "Service east/fleet-epp-pools: it is of the inventory first" in said
        assert "use another Gateway and namespace" in said
        assert "delete it" not in said and "inventory label" not in said

    def test_an_object_of_nobody_may_be_taken(self, desk: Desk) -> None:
        meta = {"name": "fleet-epp-pools", "namespace": "east"}
        desk.cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}})
        said = desk.plan(desk.file("east"), ENVOY)[1]
        assert "delete it, or give it the label fleet-epp.dev/inventory=" in said


class TestAnApiThatIsBusy:
    def test_is_asked_again(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "FIRST_WAIT", 0)
        desk.cluster.busy = listing.TRIES - 1
        assert desk.plan(desk.file("east"), ENVOY)[0] == 0

    def test_and_named_when_that_is_for_nothing(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "FIRST_WAIT", 0)
        desk.cluster.busy = 10_000
        status, said = desk.plan(desk.file("east"), ENVOY)
        assert status == 1
        assert ".gateway.networking.k8s.io: the API answers 429: storage is (re)initializing" in said


def test_who_interrupts_it_is_told_how_to_go_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    write = desk.cluster.write

    async def interrupted(*arguments: Any, **more: Any) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return await write(*arguments, **more)

    monkeypatch.setattr(desk.cluster, "write", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # not as Python has it, as in epp.__main__
    try:
        status, said = desk.apply(desk.file("east"), ENVOY)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, said.splitlines()[-1]) == (130, "epp apply: interrupted: run it again to go on")
    assert not desk.cluster.names("AIGatewayRoute")


class TestAReaderThatHasEnough:
    def test_ends_a_plan_quietly(self, desk: Desk) -> None:
        with unread():
            assert desk.plan(desk.file("east"), ENVOY) == (141, "")

    def test_does_not_end_the_writes(self, desk: Desk) -> None:
        with unread():
            assert desk.apply(desk.file("east"), ENVOY) == (141, "")
        assert desk.cluster.names("AIGatewayRoute")

    def test_does_not_hide_what_went_wrong(self, desk: Desk) -> None:
        text = FLEET.format(name="east").replace("{app: phi}", "{app: phi}, prot: 1")
        with unread():
            assert desk.apply(desk.file("east", text), ENVOY)[0] == 1
        assert not desk.cluster.names("AIGatewayRoute")


@contextmanager
def unread() -> Iterator[None]:
    """Standard output as ``head`` leaves it."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w", encoding="utf-8") as out, redirect_stdout(out):
        yield
