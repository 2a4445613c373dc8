"""An endpoint picker as its own process: ours, or any program that takes the same flags."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from bench.rig.process import Process, free_port
from epp.wire.pb import health_pb2

OURS = (sys.executable, "-m", "epp", "serve")
SERVICE = "inference-extension"

PROFILE: Mapping[str, Any] = {
    "plugins": [
        {"type": "queue-scorer"},
        {"type": "kv-cache-utilization-scorer"},
        {"type": "prefix-cache-scorer"},
        {"type": "max-score-picker"},
    ],
    "schedulingProfiles": [
        {
            "name": "default",
            "plugins": [
                {"pluginRef": "queue-scorer", "weight": 2},
                {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
                {"pluginRef": "prefix-cache-scorer", "weight": 3},
                {"pluginRef": "max-score-picker"},
            ],
        }
    ],
}
"""What pickers do without a configuration file, written down."""


class Picker(Process):
    """One picker over a file of endpoints, which is watched: ``set_endpoints`` changes it.

    ``endpoints`` are ``ip:port`` by name, or whole entries of the file; None: there is no file, ``flags`` say
    what is picked from. ``config`` is an EndpointPickerConfig without its discovery part, which is added;
    None: the picker's own default, and the file by its flag, which only ours has. ``driver`` is ours alone:
    who speaks HTTP/2 (``--server``); None: the default.
    """

    def __init__(
        self,
        *,
        logs: Path,
        endpoints: Mapping[str, str] | Sequence[Mapping[str, Any]] | None,
        config: Mapping[str, Any] | None = PROFILE,
        command: Sequence[str] = OURS,
        flags: Sequence[str] = (),
        driver: str | None = None,
        tls: bool = True,
        name: str = "picker",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if driver is not None:
            name, flags = f"{name}-{driver}", [f"--server={driver}", *flags]
        self.grpc_port, self.health_port, self.metrics_port = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{self.grpc_port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}"
        self.tls = tls
        self.endpoints_file = (logs / f"{name}-endpoints.yaml").absolute()
        self.config_file = (logs / f"{name}-config.yaml").absolute()
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        given: list[str] = []
        if endpoints is not None:
            self.set_endpoints(endpoints)
            given += ["--pool-name", "rig", *self._sources(config)]
        given += ["--grpc-port", str(self.grpc_port), "--grpc-health-port", str(self.health_port)]
        given += ["--metrics-port", str(self.metrics_port), f"--secure-serving={str(tls).lower()}"]
        root = str(Path(__file__).resolve().parents[2])
        super().__init__(
            name,
            [*command, *given, "--tracing=false", *flags],
            log=logs / f"{name}.log",
            environment={"PYTHONPATH": root, **(environment or {})},
        )

    def _sources(self, config: Mapping[str, Any] | None) -> list[str]:
        if config is None:
            return ["--endpoints-file", str(self.endpoints_file)]
        self.config_file.write_text(json.dumps(_with_discovery(config, self.endpoints_file), indent=1))
        return ["--config-file", str(self.config_file)]

    def set_endpoints(self, endpoints: Mapping[str, str] | Sequence[Mapping[str, Any]]) -> None:
        """Replace the endpoints file in one step."""
        entries = (
            [_entry(name, address) for name, address in endpoints.items()]
            if isinstance(endpoints, Mapping)
            else [dict(entry) for entry in endpoints]
        )
        beside = self.endpoints_file.with_suffix(".new")
        beside.write_text(json.dumps({"endpoints": entries}, indent=1))
        beside.replace(self.endpoints_file)

    def is_ready(self) -> bool:
        """SERVING on the health port."""
        return self.health() == "SERVING"

    def health(self, service: str = SERVICE, *, port: int | None = None) -> str:
        """The answer for one service name, or the gRPC status code's name when there is none."""
        request = health_pb2.HealthCheckRequest(service=service)
        target = f"127.0.0.1:{port or self.health_port}"
        with grpc.insecure_channel(target, options=_LONE_CHANNEL) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = check(request, timeout=2.0)
            except grpc.RpcError as failure:
                return str(failure.code().name)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


# Channels to one address share a connection and its reconnect back-off, which starts at a second: a
# look must not wait for the look before it.
_LONE_CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def _entry(name: str, address: str) -> dict[str, Any]:
    host, port = address.rsplit(":", 1)
    return {"name": name, "address": host, "port": port}


def _with_discovery(config: Mapping[str, Any], endpoints: Path) -> dict[str, Any]:
    discovery = {"type": "file-discovery", "parameters": {"path": str(endpoints), "watchFile": True}}
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        **config,
        "plugins": [discovery, *config.get("plugins", ())],
        "dataLayer": {**config.get("dataLayer", {}), "discovery": {"pluginRef": "file-discovery"}},
    }
