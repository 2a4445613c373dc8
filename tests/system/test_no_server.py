"""A rule of which no backend can serve: Envoy asks DNS for a name that nobody may have, and answers."""

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.rig.process import Process, free_port, http_get, http_post
from epp.compiler.targets.envoy_ai_gateway.backends import NOBODY
from epp.compiler.targets.envoy_ai_gateway.traffic import Traffic, policy

pytestmark = pytest.mark.default_driver

TYPES = "type.googleapis.com/envoy.extensions"


@contextmanager
def dns_that_knows_nothing() -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and the questions it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            while True:
                question, who = server.recvfrom(2048)
                if question == b"end":
                    return
                asked.append(question)
                no_such_name = b"\x81\x83"
                server.sendto(question[:2] + no_such_name + question[4:6] + bytes(6) + question[12:], who)

        thread = threading.Thread(target=answer, name="dns")
        thread.start()
        port = server.getsockname()[1]
        try:
            yield port, asked
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"end", ("127.0.0.1", port))
            thread.join()


class Gateway(Process):
    """One route with the retries that a rule gets, to a backend that has the name and no more."""

    def __init__(self, logs: Path, dns: int) -> None:
        self.port, self._admin = free_port(), free_port()
        path = logs / "no-server.yaml"
        path.write_text(yaml.safe_dump(self._configuration(dns)))
        envoy = shutil.which("envoy", path=f"{Path(sys.executable).parent}") or "envoy"
        command = [envoy, "-c", str(path), "--disable-hot-restart", "-l", "warning"]
        super().__init__("envoy without servers", command, log=logs / "no-server.log")

    def is_ready(self) -> bool:
        try:
            return http_get(f"http://127.0.0.1:{self._admin}/ready")[0] == 200
        except OSError:
            return False

    def _configuration(self, dns: int) -> dict[str, Any]:
        spec = policy(
            "llm", "mr", routes=["mr"], traffic=Traffic(120.0, 3), longest=362.0, limits=(), sources=()
        ).document["spec"]
        retry = {
            "retry_on": ",".join(spec["retry"]["retryOn"]["triggers"]),
            "num_retries": spec["retry"]["numRetries"],
            "per_try_timeout": "120s",
        }
        route = {
            "match": {"prefix": "/"},
            "route": {"cluster": "nobody", "timeout": "362s", "retry_policy": retry},
        }
        filters = [{"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}]
        manager = {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        resolver = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": f"{TYPES}.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [_address(dns)],
            },
        }
        endpoint = {"address": {"socket_address": {"address": NOBODY, "port_value": 80}}}
        cluster = {
            "name": "nobody",
            "type": "STRICT_DNS",
            "connect_timeout": "2s",
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "typed_dns_resolver_config": resolver,
            "load_assignment": {
                "cluster_name": "nobody",
                "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
            },
        }
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        return {
            "admin": {"address": _address(self._admin)},
            "static_resources": {
                "listeners": [{"address": _address(self.port), "filter_chains": [chain]}],
                "clusters": [cluster],
            },
        }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def test_clients_get_503_at_once(logs: Path) -> None:
    """Although the rule's attempts may take six minutes."""
    with dns_that_knows_nothing() as (dns, asked), Gateway(logs, dns) as gateway:
        for _ in range(5):
            began = time.monotonic()
            status, body = http_post(
                f"http://127.0.0.1:{gateway.port}/v1/chat/completions", {"model": "qwen"}
            )
            assert (status, body) == (503, "no healthy upstream")
            assert time.monotonic() - began < 2.0
        assert any(b"no-server" in one for one in asked)
