"""What the controller takes for a large site: from nothing, for one change, and at rest.

    python -m bench.controller [--services 1000] [--routers 200] [--out DIR] [--into PAGE]

Place:   a part of `make bench`: a real kube-apiserver with the site of bench.compiling; needs
         tools/kube-plane.
Ignores: what a gateway does with the objects.
Rule:    API server, etcd and controller share the machine, and so its cores. A change is counted from when
         the API has taken it until it shows the object that follows from it.
"""

import argparse
import http.client
import re
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import part
from bench.cluster import fill, missing
from bench.compiling import ROUTERS, SERVICES, site
from bench.goals import CHANGE_SECONDS, CONVERGE_SECONDS, REST_WRITES, Bound
from bench.report import Table, kept
from bench.rig.kube import ADMIN, ControlPlane, path_of
from bench.rig.process import Process, RigError, answers_ok, free_port, http_get, wait_until
from bench.stations import ROOT, cpu_seconds, rss_bytes

CRDS = Path(ROOT) / "tests" / "crds"
FOLDERS = (
    *("gateway-api-v1.5.1", "gie-v1.5.0", "llm-d-router-v0.10.0", "llmkube-v0.9.19"),
    *("envoy-ai-gateway-v1.1.0", "envoy-gateway-v1.8.1"),
)
CHANGES = 20
REST_SECONDS = 20.0
DEADLINE, CHANGE_DEADLINE = 300.0, 20.0
LOOK_SECONDS, PAUSE_SECONDS = 0.005, 1.0
PART = 10
"""A change is promised for a site of so much less: rules for any model are compared with all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Of one site."""

    target: str
    services: int
    routers: int
    objects: int
    writes: int
    converge_seconds: float
    """From the start of the process to the end of the round after which all is as wanted."""
    change_seconds: Sequence[float]
    rest_writes: int
    rest_cores: float
    rss_bytes: int


class Controller(Process):
    """``epp controller`` over the whole cluster."""

    def __init__(self, logs: Path, kubeconfig: Path, target: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "epp", "controller", "--target", target, "--claim"]
        command += ["--metrics-port", str(self.port), "--namespace=llm"]
        environment = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": ROOT}
        super().__init__("controller", command, log=logs / "controller.log", environment=environment)

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.port}/readyz")

    def series(self, name: str) -> float | None:
        """The sum over all labels; None: there is none yet."""
        text = http_get(f"http://127.0.0.1:{self.port}/metrics", timeout=30.0)[1].decode()
        found = re.findall(rf"^fleet_epp_controller_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found)) if found else None

    def writes(self) -> int:
        return int(self.series("writes_total") or 0)

    def is_done(self) -> bool:
        return self.series("last_success_timestamp_seconds") is not None


def definitions() -> Iterator[Path]:
    """Of everything in the site, and around it."""
    for folder in FOLDERS:
        for path in sorted((CRDS / folder).glob("*.yaml")):
            if yaml.safe_load(path.read_text())["spec"]["group"] != "inference.networking.x-k8s.io":
                yield path


def measured(target: str, services: int, routers: int, logs: Path) -> Control:
    with ControlPlane(logs, users={}) as plane:
        for crd in definitions():
            plane.define(crd)
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}})
        fill(plane, site(services, routers))
        began = time.monotonic()
        with Controller(logs, plane.kubeconfig(ADMIN), target).start(timeout=DEADLINE) as controller:
            wait_until(controller.is_done, what="everything applied", timeout=DEADLINE)
            converged = time.monotonic() - began
            writes = controller.writes()
            rest = _rest(controller)
            return Control(
                target=target,
                services=services,
                routers=routers,
                objects=int(controller.series("objects") or 0),
                writes=writes,
                converge_seconds=converged,
                rest_writes=rest[0],
                rest_cores=rest[1],
                change_seconds=[_change(plane, controller, one) for one in _routers(services, routers)],
                rss_bytes=rss_bytes(controller.pid),
            )


def _rest(controller: Controller) -> tuple[int, float]:
    """Writes, and cores, while nothing happens."""
    writes, cpu, began = controller.writes(), cpu_seconds(controller.pid), time.monotonic()
    time.sleep(REST_SECONDS)
    seconds = time.monotonic() - began
    return controller.writes() - writes, (cpu_seconds(controller.pid) - cpu) / seconds


def _routers(services: int, routers: int) -> list[dict[str, Any]]:
    """Those that change."""
    return [one for one in site(services, routers) if one["kind"] == "ModelRouter"][:CHANGES]


def _change(plane: ControlPlane, controller: Controller, router: dict[str, Any]) -> float:
    """A router calls its model otherwise; how long until its route does. One change, and then the next."""
    rounds = -1.0
    while rounds != (rounds := controller.series("round_seconds_count") or 0.0):
        time.sleep(PAUSE_SECONDS)
    router_name, rules = router["metadata"]["name"], router["spec"]["rules"]
    name = f"anew-{router_name}"
    rules[1]["match"]["models"] = [name]
    route = {
        "apiVersion": "aigateway.envoyproxy.io/v1beta1",
        "kind": "AIGatewayRoute",
        "metadata": {"name": router_name, "namespace": "llm"},
    }
    plane.patch(path_of(router), {"spec": {"rules": rules}})
    began = time.monotonic()
    context = ssl.create_default_context(cafile=str(plane.api.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", plane.api.port, context=context, timeout=30)
    with closing(connection):  # one for all looks: a handshake takes longer than some changes
        while name not in _text(connection, path_of(route)):
            if time.monotonic() - began > CHANGE_DEADLINE:
                raise RigError(f"{router_name}: its route does not follow")
            time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def _text(connection: http.client.HTTPSConnection, path: str) -> str:
    connection.request("GET", path, headers={"authorization": f"Bearer {ADMIN}"})
    with connection.getresponse() as answer:
        return answer.read().decode()


def bounds(found: Sequence[Control]) -> list[tuple[Bound, float | None]]:
    """A smaller site promises nothing."""
    whole = [one for one in found if (one.services, one.routers) == (SERVICES, ROUTERS)]
    small = [one for one in found if (one.services, one.routers) == (SERVICES // PART, ROUTERS // PART)]
    return [
        (CONVERGE_SECONDS, max((one.converge_seconds for one in whole), default=None)),
        (CHANGE_SECONDS, max((statistics.median(one.change_seconds) for one in small), default=None)),
        (REST_WRITES, max((one.rest_writes for one in found), default=None)),
    ]


def tables(found: Sequence[Control]) -> list[Table]:
    rows = [
        [
            one.target,
            f"{one.services:,}",
            f"{one.routers:,}",
            f"{one.objects:,}",
            f"{one.writes:,}",
            f"{one.converge_seconds:.1f}",
            f"{statistics.median(one.change_seconds) * 1e3:.0f}",
            f"{max(one.change_seconds) * 1e3:.0f}",
            f"{one.rest_writes}",
            f"{one.rest_cores:.3f}",
            f"{one.rss_bytes / 1e6:.0f}",
        ]
        for one in found
    ]
    columns = [
        "target",
        "services",
        "routers",
        "objects",
        "writes",
        "from nothing s",
        "a change ms",
        "slowest ms",
    ]
    columns += ["writes at rest", "cores at rest", "MB"]
    return [kept(bounds(found)), Table("A large site kept by the controller", columns, rows)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = part.parser("controller", __doc__ or "")
    parser.add_argument("--services", type=int, default=SERVICES, help=f"(default: {SERVICES})")
    parser.add_argument("--routers", type=int, default=ROUTERS, help=f"(default: {ROUTERS})")
    options = parser.parse_args(arguments)
    if not 100 <= options.services <= 10_000 or not 10 <= options.routers <= 2_000:
        parser.error("--services must be 100 to 10,000, --routers 10 to 2,000")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if missing():
        return
    this = part.Part("controller", options)
    with tempfile.TemporaryDirectory(prefix="bench-controller-") as logs:
        try:
            sizes = {(options.services // one, options.routers // one) for one in (1, PART)}
            found = [
                measured("envoy-ai-gateway-1.1", *size, Path(logs)) for size in sorted(sizes, reverse=True)
            ]
        except (RigError, OSError) as problem:
            sys.exit(f"bench.controller: {problem}")
    data: list[dict[str, Any]] = [asdict(one) for one in found]
    this.publish(tables(found), data)


if __name__ == "__main__":
    main()
