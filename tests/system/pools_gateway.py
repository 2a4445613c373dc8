"""An Envoy in front of several pools, as Gateway API's routes make it: which pool is the route's affair.

Each pool has a picker's address of its own; a request that no route takes gets 404 and no picker hears of it.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.rig.envoy import Envoy, Listener, Route

MODEL = "x-gateway-model-name"
"""In which a gateway has put the model that the body names."""
Json = dict[str, Any]
EXT_PROC = "envoy.filters.http.ext_proc"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"


def pools_gateway(logs: Path, pickers: Mapping[str, str], weights: Mapping[str, int]) -> Envoy:
    """Listeners ``by_model``, where a pool is called as its model, and ``weighted``."""
    first, *_ = pickers.values()
    listeners = {name: Listener(route=Route.ORIGINAL_DST) for name in ("by_model", "weighted")}
    envoy = Envoy(
        logs=logs, name="envoy-pools", servers=[], picker=first, picker_tls=False, listeners=listeners
    )
    static = envoy.config["static_resources"]
    (model,) = [one for one in static["clusters"] if one["name"] == "picker"]
    static["clusters"] += [_picker(model, pool, address) for pool, address in pickers.items()]
    by_model, weighted = (_manager(one) for one in static["listeners"])
    for manager in (by_model, weighted):
        for each in manager["http_filters"]:
            if each["name"] == EXT_PROC:
                each["disabled"] = True  # but for the routes below
    _route(by_model, *(_by_model(pool) for pool in pickers))
    _route(weighted, _weighted(weights))
    return envoy


def _manager(listener: Json) -> Json:
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _picker(model: Json, pool: str, address: str) -> Json:
    cluster = copy.deepcopy(model) | {"name": f"picker-{pool}"}
    host, _, port = address.rpartition(":")
    (locality,) = cluster["load_assignment"]["endpoints"]
    place = {"socket_address": {"address": host, "port_value": int(port)}}
    locality["lb_endpoints"] = [{"endpoint": {"address": place}}]
    return cluster


def _route(manager: Json, *routes: Json) -> None:
    """In place of the one for everything, with the response headers that it has."""
    (host,) = manager["route_config"]["virtual_hosts"]
    (everything,) = host["routes"]
    host["routes"] = [everything | route for route in routes]


def _asking(pool: str) -> Json:
    service = {"envoy_grpc": {"cluster_name": f"picker-{pool}"}}
    overrides = {"@type": PER_ROUTE, "overrides": {"grpc_service": service}}
    return {"typed_per_filter_config": {EXT_PROC: overrides}}


def _by_model(pool: str) -> Json:
    is_asked = {"name": MODEL, "string_match": {"exact": pool}}
    target = {"cluster": Route.ORIGINAL_DST.value}
    return {"match": {"prefix": "/", "headers": [is_asked]}, "route": target, **_asking(pool)}


def _weighted(weights: Mapping[str, int]) -> Json:
    shares = [
        {"name": Route.ORIGINAL_DST.value, "weight": weight, **_asking(pool)}
        for pool, weight in weights.items()
    ]
    return {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": shares}}}
