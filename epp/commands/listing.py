"""Objects of one kind out of a cluster, once; and how a command finds the cluster.

Place:   used by plan, apply and lint; the controller follows objects instead.
Rule:    a fault names the kind. An API that is not ready yet (429, as while it makes room for a new kind) is
         asked a few times more.
"""

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from epp.controller.discovery import Api
from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.store import ApiFault

T = TypeVar("T")
TRIES = 5
FIRST_WAIT = 0.2
"""[s] Doubled from try to try: 3 s in all. An API server that has got a CRD needs about one."""


class _Listed(msgspec.Struct):
    items: list[dict[str, Any]] | None = None


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """``--kubeconfig`` and ``--context``."""
    parser.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="how to reach the cluster (default: KUBECONFIG, in a pod its service account, ~/.kube/config)",
    )
    parser.add_argument(
        "--context", default="", metavar="NAME", help="of the kubeconfig (default: its current one)"
    )


def api_of(
    flags: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    *,
    flag: str = "",
    otherwise: str = "epp compile needs none",
) -> KubernetesApi:
    """As ``add_cluster`` was told; not open yet. ``flag``, ``otherwise``: as of KubernetesApi."""
    return KubernetesApi(
        environment,
        flag=flag,
        otherwise=f"name a file with --kubeconfig; {otherwise}",
        kubeconfig=flags.kubeconfig,
        context=flags.context,
    )


async def listed(
    api: Api, resource: Resource, namespace: str = "", query: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Its objects in ``namespace``, or in all. ApiFault, which names the resource."""
    try:
        body = await patiently(partial(api.fetch, resource.path(namespace), query or {}))
        return msgspec.json.decode(body, type=_Listed).items or []
    except ApiFault as fault:
        raise ApiFault(fault.status, f"{_named(resource)}: {fault}") from fault
    except msgspec.DecodeError as fault:
        raise ApiFault(0, f"{_named(resource)}: the answer is not understood: {fault}") from fault


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What ``ask`` returns, asked again while the API is busy with itself."""
    for number in range(TRIES - 1):
        try:
            return await ask()
        except ApiFault as fault:
            if fault.status != 429:
                raise
        await asyncio.sleep(FIRST_WAIT * 2**number)
    return await ask()


def _named(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural
