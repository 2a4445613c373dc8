"""``epp controller``: keeps a gateway's routes and pools as the models in the cluster want them.

Rule:    no logic; read from top to bottom.
"""

import argparse
import asyncio
import datetime as dt
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from epp.commands.files import NO_OBJECT, load
from epp.commands.listing import add_cluster, api_of
from epp.commands.target import PORT, Parser, add_target, options, parsed
from epp.compiler import marks
from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document
from epp.compiler.inputs.fleet import identity
from epp.compiler.kinds import kinds_of
from epp.config.flags import UsageError
from epp.controller import pages
from epp.controller.cluster import Cluster
from epp.controller.discovery import Discovery
from epp.controller.events import Events
from epp.controller.files import Files, Unreadable
from epp.controller.loop import Controller, Parts
from epp.controller.metrics import ControllerMetrics
from epp.controller.statuses import Statuses
from epp.controller.watching import Watching
from epp.runtime import logs, ports
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.api import KubernetesApi
from epp.runtime.kubernetes.lease import Leadership, own_identity
from epp.runtime.loop import Loop
from epp.runtime.supervise import forever, told_to_stop

logger = logging.getLogger("epp.controller")

WRITE_SECONDS = 6.0
"""A write is given up after 5."""


def parser() -> Parser:
    """What the command takes."""
    made = Parser("controller", "Keep a gateway's routes and pools as the models in the cluster want them.")
    add_target(made, inventory="controller")
    add_cluster(made)
    made.add_argument(
        "--fleet",
        action="append",
        default=[],
        metavar="FILE|DIR",
        help="fleet files beside the cluster's objects, read again when they change; may be repeated",
    )
    made.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="look at and write in this namespace only; may be repeated (default: all)",
    )
    made.add_argument(
        "--claim",
        action="store_true",
        help="compile LLMKube's objects without the annotation fleet-epp.dev/claim as well",
    )
    made.add_argument(
        "--lease",
        default="",
        metavar="NAMESPACE/NAME",
        help="the Lease of which the holder writes, where there are several replicas (default: no election)",
    )
    made.add_argument(
        "--metrics-port", type=PORT, default=9092, metavar="PORT", help="for /metrics, /healthz and /readyz"
    )
    made.add_argument("--verbose", action="store_true", help="log every write and more")
    return made


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parsed(parser(), arguments)
        lease = _lease(flags.lease)
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(control(flags, lease, os.environ))
    except UsageError as fault:
        return _fault(fault, 2)
    except StartError as fault:
        return _fault(fault, 1)
    return 0


def _fault(fault: Exception, status: int) -> int:
    sys.stderr.write(f"epp controller: {fault}\n")
    return status


def _lease(text: str) -> tuple[str, str] | None:
    namespace, slash, name = text.partition("/")
    if text and not (namespace and slash and name):
        raise UsageError(f'--lease: "{text}" is no NAMESPACE/NAME: write as in fleet-epp/controller')
    return (namespace, name) if text else None


def _leadership(api: KubernetesApi, lease: tuple[str, str] | None) -> Leadership | None:
    if lease is None:
        return None
    return Leadership(
        api,
        namespace=lease[0],
        name=lease[1],
        identity=own_identity(),
        clock=time.monotonic,
        today=_today,
        chance=random.Random(),
    )


def _fleet(paths: Sequence[str]) -> Sequence[Document]:
    """What the files say; Unreadable when one of them cannot be read, or not every fleet be told by name:
    what is not said any more is deleted."""
    try:
        loaded = load(paths)
    except UsageError as fault:
        raise Unreadable(str(fault).replace("-f ", "--fleet ", 1)) from fault
    for file in loaded.empty:
        raise Unreadable(f"--fleet: {file}: is empty: what it said last stays until the file is removed")
    for finding in loaded.findings:
        if finding.is_error or finding.code == NO_OBJECT:
            place = f"{finding.origin.place}: " if finding.origin.place else ""
            raise Unreadable(f"--fleet: {place}{finding.message}: what it said last stays")
    for finding in (fault for one in loaded.documents for fault in identity.faults(one)):
        at = loaded.located(finding).origin
        told = f"{at.place}: {at.field}: {finding.message}: {finding.fix}"
        raise Unreadable(f"--fleet: {told}: what it said last stays")
    return loaded.documents


def _today() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _wall_clock() -> float:
    return time.time()  # noqa: TID251 (heartbeats and people go by it)


def _parts(
    flags: argparse.Namespace, api: KubernetesApi, lease: tuple[str, str] | None, changed: Callable[[], None]
) -> Parts:
    settings = options(flags, is_live=True, claim=flags.claim)
    discovery = Discovery(api)
    leader = _leadership(api, lease)
    inventory, may_write = marks.inventory(settings), lambda: leader is None or leader.is_leader
    cluster = Cluster(api, discovery, inventory, may_write=may_write)
    paced: dict[str, Any] = {"today": _today, "clock": time.monotonic, "chance": random.Random()}
    return Parts(
        watching=Watching(
            *(api, discovery, kinds_of(settings.target)),
            namespaces=flags.namespace,
            inventory=inventory,
            changed=changed,
            clock=time.monotonic,
            wall_clock=_wall_clock,
            chance=random.Random(),
        ),
        files=Files(partial(_fleet, flags.fleet) if flags.fleet else None, changed),
        cluster=cluster,
        compile=compile_documents,
        statuses=Statuses(cluster, settings, **paced),
        events=Events(cluster, **paced),
        metrics=ControllerMetrics(cluster.writes),
        leader=leader,
        options=settings,
        clock=time.monotonic,
        wall_clock=_wall_clock,
        chance=random.Random(),
    )


async def control(
    flags: argparse.Namespace, lease: tuple[str, str] | None, environment: Mapping[str, str]
) -> None:
    """Everything that lives as long as the process; the first failure stops the rest."""
    level = logging.DEBUG if flags.verbose else logging.INFO
    logs.configure(logs.LogSettings(level=level))
    api = api_of(flags, environment)
    controller = Controller()
    with ports.listen(flags.metrics_port, flag="metrics-port") as listener:
        await api.open()
        try:
            parts = _parts(flags, api, lease, controller.changed)
            leader = parts.leader
            works: dict[str, Coroutine[Any, Any, None]] = {
                "rounds": controller.run(parts),
                "watching": parts.watching.run(),
                "fleet files": parts.files.run(),
                "pages": pages.run(
                    listener,
                    [parts.metrics, parts.watching, *([leader] if isinstance(leader, Leadership) else [])],
                    why_not_ready=lambda: "" if controller.is_synced else "the cluster is being read",
                    details=lambda: _details(controller, leader),
                ),
            }
            if isinstance(leader, Leadership):
                works["leader election"] = leader.run()
            fields = {"target": flags.target.value, "port": listener.getsockname()[1], "api": api.address}
            logger.info("controlling", extra={"fields": fields})
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(forever(work, name), name=name) for name, work in works.items()]
                told: signal.Signals = await told_to_stop()
                await _written_out(parts.cluster)  # before the next one leads
                if isinstance(leader, Leadership):
                    await leader.release()
                logger.info("stopped", extra={"fields": {"signal": told.name}})
                for task in running:
                    task.cancel()
        finally:
            await api.close()


async def _written_out(cluster: Cluster) -> None:
    """No write begins any more; those that are on their way end."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await cluster.end()
    except TimeoutError:
        logger.warning("a write is still on its way", extra={"fields": {"seconds": WRITE_SECONDS}})


def _details(controller: Controller, leader: object) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if controller.trouble:
        told["trouble"] = list(controller.trouble)
    if controller.errors:
        told["errors"] = controller.errors
    if isinstance(leader, Leadership):
        told["leader"] = leader.reason or "this replica"
    return told
