"""An InferencePool followed in a real Kubernetes API: pods, the slices of outside machines, LLMKube's word.

No controller runs there: the tests write what kubelet, LLMKube and its metal agent would. The servers are
real llama.cpp servers: pods have addresses of 127.0.0.0/8, machines outside the cluster this machine's own,
because the API takes no loopback address in a slice.
"""

import datetime as dt
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import RigError, free_port, wait_until
from tests.system.kube_plane import MISSING, ControlPlane, is_possible, path_of
from tests.system.talk import channel_to, converse, destination, endpoints, page, request_headers

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "tests" / "crds"
RBAC = ROOT / "deploy" / "kubernetes" / "rbac.yaml"
POOLS = CRDS / "gie-v1.5.0" / "inference.networking.k8s.io_inferencepools.yaml"
LLMKUBE = sorted((CRDS / "llmkube-v0.9.19").glob("*.yaml"))
NAMESPACE = "models"
TOKEN, STRANGER = "picker-token", "stranger-token"

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]


def own_address() -> str:
    """One that a slice may name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


OUTSIDE = own_address()
needs_address = pytest.mark.skipif(
    OUTSIDE.startswith("127."),
    reason="this machine has no address but loopback: EndpointSlices stay untested",
)


# --- what is there ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plane(logs: Path) -> Iterator[ControlPlane]:
    users = {
        TOKEN: f"system:serviceaccount:{NAMESPACE}:fleet-epp",
        STRANGER: f"system:serviceaccount:{NAMESPACE}:stranger",
    }
    with ControlPlane(logs, users=users) as plane:
        plane.define(POOLS)
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        plane.apply(*rbac())
        yield plane


def rbac() -> list[dict[str, Any]]:
    """As deploy/ has it, in the namespace that ``kubectl --namespace`` would say."""
    documents = list(yaml.safe_load_all(RBAC.read_text()))
    for document in documents:
        document["metadata"]["namespace"] = NAMESPACE
        for subject in document.get("subjects", ()):
            subject["namespace"] = NAMESPACE
    return documents


class Stage:
    """Objects of one test, gone after it, and pickers that follow them."""

    def __init__(self, plane: ControlPlane, logs: Path, name: str, parts: ExitStack) -> None:
        self.plane = plane
        self.name = name
        self.port = free_port()
        """Of every pod."""
        self._logs = logs
        self._parts = parts
        self._objects: dict[str, Mapping[str, Any]] = {}
        parts.callback(self._clear)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.plane.apply(*documents)
        self._objects.update((path_of(one), one) for one in documents)

    def delete(self, document: Mapping[str, Any], *, grace: int = 0) -> None:
        self.plane.delete(document, grace=grace)
        if not grace:
            self._objects.pop(path_of(document), None)

    def _clear(self) -> None:
        for document in self._objects.values():
            self.plane.delete(document)

    # --- parts

    def picker(
        self,
        *flags: str,
        token: str = TOKEN,
        beside: Mapping[str, str] | None = None,
        **environment: str,
    ) -> Picker:
        """One that follows the pool; ``beside``: servers of an endpoints file as well. Not started."""
        given = ["--pool-name", self.name, "--pool-namespace", NAMESPACE, "--kubernetes", *flags]
        picker = Picker(
            logs=self._logs,
            name=f"picker-{self.name}-{token}",
            endpoints=beside or {},
            config=None,
            flags=given,
            tls=False,
            environment={"KUBECONFIG": str(self.plane.kubeconfig(token)), **environment},
        )
        if beside is None:
            at = picker.command.index("--endpoints-file")
            del picker.command[at : at + 2]
        self._parts.callback(picker.stop)
        return picker

    def server(self, host: str, port: int = 0) -> LlamaServer:
        """A real one, ready. Port 0: that of every pod."""
        name = f"llama-{self.name}-{host}-{port}"
        server = LlamaServer(logs=self._logs, name=name, host=host, port=port or self.port)
        self._parts.callback(server.stop)
        return server.start()

    # --- objects

    def pool(
        self, *, ports: tuple[int, ...] = (), slices: str | None = None, app: str = ""
    ) -> dict[str, Any]:
        annotations = {} if slices is None else {"fleet-epp.dev/endpoint-slices": slices}
        return {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {
                "selector": {"matchLabels": {"app": app or self.name}},
                "targetPorts": [{"number": port} for port in ports or (self.port,)],
                "endpointPickerRef": {"name": "fleet-epp", "port": {"number": 9002}},
            },
        }

    def pod(
        self, name: str, ip: str | None, *, ready: bool = True, app: str = "", **labels: str
    ) -> dict[str, Any]:
        """As kubelet keeps it."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        started = {"name": "server", "ready": ready, "image": "x", "imageID": "x", "restartCount": 0}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {"app": app or self.name, **labels},
            },
            "spec": {"nodeName": "node-0", "containers": [{"name": "server", "image": "x"}]},
            "status": {
                "phase": "Running" if ip else "Pending",
                "conditions": [condition],
                "containerStatuses": [{**started, "state": {"running": {}}}],
                **({"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}),
            },
        }

    def metal(
        self, name: str, port: int, *, ready: bool = True, beat: dt.datetime | None = None
    ) -> dict[str, Any]:
        """As LLMKube's metal agent writes it; ``beat``: its last one, now if left out."""
        beat = beat or dt.datetime.now(dt.UTC)
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "app": name,
                    "llmkube.ai/managed-by": "metal-agent",
                    "llmkube.ai/inference-service": name,
                },
                "annotations": {"llmkube.ai/agent-heartbeat": beat.strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": [OUTSIDE],
                    "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": f"{name}-metal", "namespace": NAMESPACE},
                }
            ],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }


AGENTS = "llmkube.ai/managed-by=metal-agent"


@pytest.fixture
def stage(plane: ControlPlane, logs: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with ExitStack() as parts:
        yield Stage(plane, logs, name, parts)


# --- what is seen -----------------------------------------------------------------------------------


def phases(picker: Picker) -> dict[str, str]:
    return {name: one["phase"] for name, one in endpoints(picker).items()}


def is_serving(picker: Picker, *names: str) -> bool:
    return {name for name, phase in phases(picker).items() if phase in {"warming", "ready"}} == set(names)


def wait_serving(picker: Picker, *names: str) -> None:
    """Until exactly these get requests."""
    wait_until(lambda: is_serving(picker, *names), what=f"{names} serve, not {phases(picker)}", timeout=60)


def wait_reason(picker: Picker, name: str, reason: str, phase: str) -> None:
    def is_so() -> bool:
        one = endpoints(picker).get(name)
        return one is not None and reason in one["reason"] and one["phase"] == phase

    wait_until(is_so, what=f"{name} {phase}, {reason}, not {endpoints(picker).get(name)}", timeout=60)


def detail(picker: Picker) -> str:
    return str(page(picker, "/readyz").get("details", {}).get("endpoints", ""))


def picked(picker: Picker, times: int = 20) -> set[str]:
    """Where so many requests are sent."""
    with channel_to(picker) as channel:
        return {destination(next(converse(channel, [request_headers(ended=True)]))) for _ in range(times)}


class Requests:
    """One after the other, as long as the block lasts."""

    def __init__(self, picker: Picker) -> None:
        self.refused: list[str] = []
        self._sent: list[str] = []
        self._picker = picker
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def _go_on(self) -> None:
        with channel_to(self._picker) as channel:
            while not self._is_over.is_set():
                answer = next(converse(channel, [request_headers(ended=True)]))
                if answer.HasField("immediate_response"):
                    self.refused.append(str(answer.immediate_response))
                else:
                    self._sent.append(destination(answer))

    def wait_for(self, *addresses: str) -> None:
        """Until a hundred more have been sent, to exactly these."""
        before = len(self._sent)
        wait_until(lambda: len(self._sent) >= before + 100, what="a hundred requests")
        assert set(self._sent[before:]) == set(addresses)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()


def said(picker: Picker, text: str) -> int:
    """How many log lines say it."""
    return sum(text in line for line in picker.log.read_text().splitlines())


# --- pods -------------------------------------------------------------------------------------------


def test_a_pod_serves_while_it_is_ready(stage: Stage) -> None:
    one, other = stage.pod("one", "127.0.0.2"), stage.pod("other", "127.0.0.3", ready=False)
    stage.server("127.0.0.2")
    stage.server("127.0.0.3")
    stage.apply(stage.pool(), one, other)
    with stage.picker() as picker:
        wait_serving(picker, "one-rank-0")
        wait_reason(
            picker,
            "other-rank-0",
            "pod is not ready: container server does not pass its readiness probe",
            "pending",
        )
        assert picked(picker) == {f"127.0.0.2:{stage.port}"}

        stage.apply(stage.pod("other", "127.0.0.3"))
        wait_serving(picker, "one-rank-0", "other-rank-0")

        stage.apply(stage.pod("one", "127.0.0.2", ready=False))
        wait_serving(picker, "other-rank-0")
        assert picked(picker) == {f"127.0.0.3:{stage.port}"}


def test_a_pod_that_terminates_gets_nothing_more(stage: Stage) -> None:
    one, other = stage.pod("leaves", "127.0.0.4"), stage.pod("stays", "127.0.0.5")
    stage.server("127.0.0.4")
    stage.server("127.0.0.5")
    stage.apply(stage.pool(), one, other)
    with stage.picker() as picker:
        wait_serving(picker, "leaves-rank-0", "stays-rank-0")
        stage.delete(one, grace=30)
        wait_reason(picker, "leaves-rank-0", "pod is terminating", "draining")
        assert picked(picker) == {f"127.0.0.5:{stage.port}"}
        stage.delete(one)
        wait_until(lambda: set(endpoints(picker)) == {"stays-rank-0"}, what="the pod gone")


def test_a_pod_without_an_address_is_waited_for(stage: Stage) -> None:
    stage.server("127.0.0.6")
    stage.apply(stage.pool(), stage.pod("here", "127.0.0.6"), stage.pod("queued", None, ready=False))
    with stage.picker() as picker:
        wait_serving(picker, "here-rank-0")
        assert "pod queued: " in detail(picker)
        assert set(endpoints(picker)) == {"here-rank-0"}


def test_the_pool_may_change(stage: Stage) -> None:
    """Other ports, other pods, none at all, and everything again."""
    first, second = stage.pod("first", "127.0.0.7"), stage.pod("second", "127.0.0.8", app="another")
    more = free_port()
    for host, port in (("127.0.0.7", 0), ("127.0.0.7", more), ("127.0.0.8", 0)):
        stage.server(host, port)
    stage.apply(stage.pool(), first, second)
    with stage.picker() as picker:
        wait_serving(picker, "first-rank-0")
        stage.apply(stage.pool(ports=(stage.port, more)))
        wait_serving(picker, "first-rank-0", "first-rank-1")
        stage.apply(stage.pool(app="another"))
        wait_serving(picker, "second-rank-0")
        stage.delete(stage.pool())
        wait_until(lambda: endpoints(picker) == {}, what="no endpoints without a pool")
        assert f"InferencePool {NAMESPACE}/{stage.name} is not there" in detail(picker)
        stage.apply(stage.pool())
        wait_serving(picker, "first-rank-0")
        assert detail(picker) == ""


def test_a_picker_waits_for_its_pool(stage: Stage) -> None:
    stage.server("127.0.0.9")
    picker = stage.picker().launch()
    wait_until(lambda: picker.health() == "NOT_SERVING", what="a picker without a pool")
    wait_until(lambda: "is not there: create it" in detail(picker), what="what it waits for")
    stage.apply(stage.pool(), stage.pod("late", "127.0.0.9"))
    picker.wait_ready()
    wait_serving(picker, "late-rank-0")


def test_a_file_beside_the_pods(stage: Stage) -> None:
    stage.server("127.0.0.10")
    beside = stage.server("127.0.0.11")
    stage.apply(stage.pool(), stage.pod("inside", "127.0.0.10"))
    with stage.picker(beside={"desk": beside.address}) as picker:
        wait_serving(picker, "inside-rank-0", "desk")
        picker.set_endpoints({})
        wait_serving(picker, "inside-rank-0")
        picker.set_endpoints({"desk": beside.address})
        stage.delete(stage.pod("inside", "127.0.0.10"))
        wait_serving(picker, "desk")


# --- machines outside the cluster -------------------------------------------------------------------


@needs_address
def test_a_mac_of_the_metal_agent_beside_a_pod(stage: Stage) -> None:
    stage.server("127.0.0.12")
    mac = stage.server(OUTSIDE, free_port())
    stage.apply(
        stage.pool(slices=AGENTS), stage.pod("pod", "127.0.0.12"), stage.metal("phi-3-mini", mac.port)
    )
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0", "phi-3-mini")
        assert endpoints(picker)["phi-3-mini"]["address"] == mac.address
        assert picked(picker) == {f"127.0.0.12:{stage.port}", mac.address}

        stage.apply(stage.metal("phi-3-mini", mac.port, ready=False))  # its agent restarts the server
        wait_reason(picker, "phi-3-mini", "EndpointSlice phi-3-mini says not ready", "pending")
        moved = stage.server(OUTSIDE, free_port())
        stage.apply(stage.metal("phi-3-mini", moved.port))
        wait_serving(picker, "pod-rank-0", "phi-3-mini")
        assert endpoints(picker)["phi-3-mini"]["address"] == moved.address


@needs_address
def test_a_slice_whose_machine_is_dead_stays_ready_and_gets_nothing(stage: Stage) -> None:
    """Nobody takes a dead Mac out of its slice: only looking at the server tells."""
    stage.server("127.0.0.13")
    mac = stage.server(OUTSIDE, free_port())
    stage.apply(stage.pool(slices=AGENTS), stage.pod("pod", "127.0.0.13"), stage.metal("dying", mac.port))
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0", "dying")
        mac.kill()
        wait_serving(picker, "pod-rank-0")
        assert picked(picker) == {f"127.0.0.13:{stage.port}"}
        assert endpoints(picker)["dying"]["phase"] == "ejected"
        mac.start()
        wait_serving(picker, "pod-rank-0", "dying")


@needs_address
def test_an_agent_may_be_dead_while_its_server_lives(stage: Stage) -> None:
    mac = stage.server(OUTSIDE, free_port())
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
    stage.apply(stage.pool(slices=AGENTS), stage.metal("orphan", mac.port, beat=long_ago))
    with stage.picker() as picker:
        wait_serving(picker, "orphan")
        mac.kill()
        wait_reason(picker, "orphan", "no heartbeat of its agent since", "pending")


@needs_address
def test_a_stale_slice_beside_a_live_one(stage: Stage) -> None:
    """A Mac has gone, another one serves its service: requests go where somebody answers."""
    live, gone = stage.server(OUTSIDE, free_port()), free_port()
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    old = stage.metal("phi-old", gone, beat=long_ago)
    old["metadata"]["labels"]["kubernetes.io/service-name"] = "phi"
    stage.apply(stage.pool(slices=AGENTS), stage.metal("phi", live.port), old)
    with stage.picker() as picker:
        wait_serving(picker, "phi")
        wait_reason(picker, "phi-old", "no heartbeat of its agent since", "pending")
        assert picked(picker) == {live.address}


@needs_address
def test_two_macs_that_take_one_slice_from_each_other_are_said(stage: Stage) -> None:
    """Each agent thinks the service its own; every beat moves the endpoint to its server."""
    one, other = stage.server(OUTSIDE, free_port()), stage.server(OUTSIDE, free_port())
    stage.apply(stage.pool(slices=AGENTS), stage.metal("contested", one.port))
    with stage.picker() as picker:
        for mac in (one, other, one):
            stage.apply(stage.metal("contested", mac.port))
            wait_serving(picker, "contested")
            wait_until(lambda mac=mac: picked(picker, 1) == {mac.address}, what="the last claim counts")
        assert "claim it in turn: let one agent serve it" in detail(picker)


@needs_address
def test_a_selector_that_is_none_is_said_and_the_pods_stay(stage: Stage) -> None:
    stage.server("127.0.0.14")
    stage.apply(stage.pool(slices="a in (b"), stage.pod("pod", "127.0.0.14"))
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0")
        assert "endpointslices: the API answers 400: unable to parse requirement" in detail(picker)
        assert "correct annotation fleet-epp.dev/endpoint-slices of the InferencePool" in detail(picker)


# --- LLMKube ----------------------------------------------------------------------------------------


@needs_address
def test_llmkube_says_why_a_model_does_not_serve(stage: Stage) -> None:
    """Its kinds may come later than the picker."""
    model = {
        "apiVersion": "inference.llmkube.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "phi-3-mini", "namespace": NAMESPACE},
        "spec": {"source": "https://models.example.com/phi-3-mini-q4.gguf"},
        "status": {"phase": "Downloading"},
    }
    service = {
        "apiVersion": "inference.llmkube.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "phi", "namespace": NAMESPACE},
        "spec": {"modelRef": "phi-3-mini"},
        "status": {"phase": "Pending"},
    }
    port = free_port()
    stage.apply(stage.pool(slices=AGENTS), stage.metal("phi", port))
    with stage.picker() as picker:
        wait_until(lambda: phases(picker).get("phi") == "ejected", what="a Mac that refuses")
        assert detail(picker) == "", "nobody misses LLMKube"
        for crd in LLMKUBE:
            stage.plane.define(crd)
        stage.apply(model, service)
        wait_reason(picker, "phi", "Model phi-3-mini Downloading", "pending")

        stage.server(OUTSIDE, port)
        stage.plane.patch(f"{path_of(model)}/status", {"status": {"phase": "Ready"}})
        wait_serving(picker, "phi")
        pressed = {
            "type": "MemoryPressure",
            "status": "True",
            "reason": "Critical",
            "message": "5 % left",
            "lastTransitionTime": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        stage.plane.patch(
            f"{path_of(service)}/status", {"status": {"phase": "Ready", "conditions": [pressed]}}
        )
        wait_reason(picker, "phi", "memory pressure Critical since", "pressured")


# --- what the page says -----------------------------------------------------------------------------


def test_the_objects_of_the_page_are_taken_and_followed(stage: Stage) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    assert {document["kind"] for document in documents} == {"InferencePool", "Service", "EndpointSlice"}
    stage.apply(*documents)
    with stage.picker("--pool-name=qwen") as picker:
        wait_until(lambda: set(endpoints(picker)) == {"studio-studio"}, what="the Mac of the page")
        assert endpoints(picker)["studio-studio"]["address"] == "192.0.2.20:8080"


# --- the API goes away, forgets, refuses ------------------------------------------------------------


def test_the_last_list_serves_while_the_api_is_away(stage: Stage) -> None:
    """And what happened meanwhile is taken over, even if the API remembers no changes."""
    stage.server("127.0.0.15")
    stage.server("127.0.0.16")
    stage.apply(stage.pool(), stage.pod("stays", "127.0.0.15"), stage.pod("leaves", "127.0.0.16"))
    api = stage.plane.api
    with stage.picker() as picker:
        wait_serving(picker, "stays-rank-0", "leaves-rank-0")
        with Requests(picker) as requests:
            api.kill()
            wait_until(lambda: "Kubernetes API: no answer from" in detail(picker), what="the API missed")
            assert "what it last told stays" in detail(picker)
            assert picker.health() == "SERVING"
            requests.wait_for(f"127.0.0.15:{stage.port}", f"127.0.0.16:{stage.port}")

            api.start(timeout=60)
            stage.delete(stage.pod("leaves", "127.0.0.16"))
            wait_serving(picker, "stays-rank-0")
            wait_until(lambda: detail(picker) == "", what="the API back")
            requests.wait_for(f"127.0.0.15:{stage.port}")
        assert requests.refused == []
        assert said(picker, "Kubernetes API: no answer from") <= 4, "its beginning and end, not each try"
        assert "Traceback" not in picker.log.read_text()


def test_a_file_serves_alone_where_a_picker_starts_without_the_api(stage: Stage) -> None:
    stage.server("127.0.0.21")
    beside = stage.server("127.0.0.22")
    stage.apply(stage.pool(), stage.pod("inside", "127.0.0.21"))
    api = stage.plane.api
    api.kill()
    with stage.picker(beside={"desk": beside.address}) as picker:
        wait_serving(picker, "desk")
        assert detail(picker).startswith("Kubernetes: no endpoints told yet, endpoints file serves alone; ")
        assert "Kubernetes API: no answer from" in detail(picker)
        assert said(picker, "endpoints file serves alone") == 1
        api.start(timeout=60)
        wait_serving(picker, "inside-rank-0", "desk")
        wait_until(lambda: detail(picker) == "", what="the API back")


def test_a_version_that_the_api_has_forgotten_leads_to_a_new_list(stage: Stage) -> None:
    """410 Gone: an API that came up after the changes knows none of them, only their result."""
    stage.server("127.0.0.17")
    stage.server("127.0.0.18")
    stage.apply(stage.pool(), stage.pod("old", "127.0.0.17"))
    with stage.picker("-v=4") as picker:
        wait_serving(picker, "old-rank-0")
        os.kill(picker.pid, signal.SIGSTOP)
        stage.plane.api.restart(timeout=60)  # nothing of what follows is on its way to the picker
        stage.delete(stage.pod("old", "127.0.0.17"))
        stage.apply(stage.pod("new", "127.0.0.18"))
        stage.plane.api.restart(timeout=60)
        os.kill(picker.pid, signal.SIGCONT)
        wait_serving(picker, "new-rank-0")
        wait_until(lambda: said(picker, "version expired") > 0, what="410")
        assert "Traceback" not in picker.log.read_text()


def test_whoever_may_not_see_pods_says_so_once(stage: Stage) -> None:
    stage.server("127.0.0.19")
    stage.apply(stage.pool(), stage.pod("pod", "127.0.0.19"))
    picker = stage.picker(token=STRANGER).launch()
    refusal = 'cannot list resource \\"inferencepools\\" in API group \\"inference.networking.k8s.io\\"'
    wait_until(lambda: said(picker, refusal) == 1, what="the refusal, with verb and resource")
    assert "grant it as deploy/kubernetes/rbac.yaml does" in detail(picker)
    assert picker.health() == "NOT_SERVING"
    binding = next(one for one in rbac() if one["kind"] == "RoleBinding")
    binding["metadata"]["name"] = "stranger"
    binding["subjects"][0]["name"] = "stranger"
    stage.apply(binding)
    picker.wait_ready(timeout=60)
    wait_serving(picker, "pod-rank-0")
    assert said(picker, refusal) == 2, "that it is refused, and that this is settled"


def test_without_any_word_of_an_api_it_does_not_start(stage: Stage, tmp_path: Path) -> None:
    picker = stage.picker(KUBECONFIG="", KUBERNETES_SERVICE_HOST="", HOME=str(tmp_path))
    with pytest.raises(RigError, match="ended with status 1"):
        picker.start()
    assert said(picker, "--pool-name: there is no Kubernetes API: run in a pod, set KUBECONFIG, or list") == 1
