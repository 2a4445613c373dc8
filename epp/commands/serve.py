"""``epp serve``: reads its flags, runs what epp.process has put together until told to stop.

Rule:    no logic; read from top to bottom.
"""

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from epp.commands.output import printed
from epp.config.cluster.wishes import PoolName
from epp.config.decode import ConfigError
from epp.config.flags import HelpRequested, ServeFlags, UsageError, parse
from epp.config.operation import Drain, drain
from epp.core.budget import Budget
from epp.process import Process, build_process
from epp.runtime import admin, logs, memory, ports, serving, tls
from epp.runtime.errors import StartError
from epp.runtime.health import HealthService, Readiness
from epp.runtime.loop import Loop
from epp.runtime.supervise import forever, on_hangup, told_to_stop

if TYPE_CHECKING:
    from epp.runtime.kubernetes.namespace import Namespaces

Work: TypeAlias = Coroutine[Any, Any, None]

logger = logging.getLogger("epp.main")


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parse(arguments, os.environ)
        memory.keep_what_is_freed()
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(serve(flags))
    except HelpRequested as wanted:
        with printed():
            sys.stdout.write(str(wanted))
    except UsageError as fault:
        return _fault(fault, 2)
    except (ConfigError, StartError) as fault:
        return _fault(fault, 1)
    return 0


def _fault(fault: Exception, status: int) -> int:
    sys.stderr.write(f"epp serve: {fault}\n")
    return status


def _checks(flags: ServeFlags, process: Process) -> serving.Server:
    """The server for health checks, on its port: of the process, and by ``namespace/name`` of each pool."""

    def pool(name: str) -> Readiness | None:
        namespace, _, own = name.rpartition("/")
        found = process.keeper.pools.get(PoolName(namespace, own))
        return None if found is None else found.readiness

    health = HealthService(process.readiness, pool).services()
    checks = serving.make_server(flags.server, health, budget=Budget(flags.max_buffered_bytes))
    checks.bind(flags.grpc_health_port, flag="grpc-health-port")
    return checks


def _access(flags: ServeFlags, namespaces: "Namespaces | None") -> admin.Access | None:
    """Who says who may see the pages; None: everybody may."""
    if namespaces is None or flags.metrics_endpoint_auth is False:
        return None
    from epp.runtime.kubernetes.access import Access  # noqa: PLC0415 (whoever lists the servers should not wait for it)

    return Access(namespaces.api, clock=time.monotonic)


def _pages_tls(flags: ServeFlags, process: Process) -> ssl.SSLContext | None:
    own = process.certificates.get("metrics-cert-dir")
    if own is None:
        return None
    client_ca = Path(flags.metrics_client_ca_file) if flags.metrics_client_ca_file else None
    context = tls.pages_context(own.current(), client_ca)
    own.on_change = lambda pair: tls.use(context, pair)
    return context


def _what_is_served(flags: ServeFlags, process: Process, taken: Sequence[int]) -> dict[str, Any]:
    pools = process.keeper.pools.values()
    return {
        "version": version("fleet-epp"),
        "server": flags.server,
        "tls": flags.secure_serving,
        "port": next((pool.port for pool in pools), None),
        **dict(zip(("health_port", "metrics_port"), taken, strict=True)),
        **({"pools": {pool.title: pool.port for pool in pools}} if flags.wishes else {}),
        "endpoints": len(process.looks.fleet.endpoints),
        "serving": sum(e.lifecycle.is_serving for e in process.looks.fleet.endpoints),
    }


async def _leave(process: Process, plan: Drain) -> None:
    """From the signal to the last answer."""
    process.readiness.is_draining = True
    streams = process.metrics.streams
    async with asyncio.TaskGroup() as group:
        if process.leadership is not None:
            group.create_task(process.leadership.release(), name="leader election: release")
        if plan.serve_for:
            fields = {"seconds": plan.serve_for, "open_streams": streams.inflight}
            logger.info("not ready any more, requests are still taken", extra={"fields": fields})
            await asyncio.sleep(plan.serve_for)
        asyncio.get_running_loop().call_later(plan.last_call, process.keeper.refuse_waiting)
        await serving.stop(process.keeper.leave, plan.grace, open_streams=lambda: streams.inflight)


async def _prepare(process: Process) -> None:
    """The first pools, up to serving; nothing stays open if that does not succeed."""
    namespaces, references = process.namespaces, process.references
    if namespaces is not None:
        await namespaces.api.open()
    try:
        if references is not None:
            await references.start()
        await process.keeper.prepare(process.wanted())
    except BaseException:
        if namespaces is not None:
            await namespaces.api.close()
        raise


def _parts(process: Process, pages: Work) -> dict[str, Work]:
    """What runs as long as the process, by name."""
    changed = process.references.changed if process.references is not None else asyncio.Event()
    parts = {
        "scraper": process.looks.scraper.run(),
        "pools": process.keeper.run(process.wanted, changed),
        "admin": pages,
        **{f"--{flag}": certificates.run() for flag, certificates in process.certificates.items()},
    }
    for name, part in (
        ("side scraper", process.looks.side_scraper),
        ("leader election", process.leadership),
        ("namespaces", process.namespaces),
    ):
        if part is not None:
            parts[name] = part.run()
    return parts


def _pages(process: Process) -> admin.AdminState:
    return admin.AdminState(
        metrics=process.metrics,
        readiness=process.readiness,
        fleet=process.looks.fleet,
        pools=process.keeper.pools.values,
        clock=time.monotonic,
        wall_clock=time.time,  # noqa: TID251 (people read it)
    )


async def serve(flags: ServeFlags) -> None:
    """Everything that lives as long as the process; the first failure stops the rest."""
    request_log = logs.configure(logs.LogSettings.of(flags), later=asyncio.get_running_loop().call_later)
    process = build_process(flags, request_log)
    pages_tls, access = _pages_tls(flags, process), _access(flags, process.namespaces)
    with ports.listen(flags.metrics_port, flag="metrics-port") as listener:
        checks = _checks(flags, process)
        await _prepare(process)
        on_hangup(process.reread)
        async with asyncio.TaskGroup() as group:
            told = group.create_task(told_to_stop(), name="signals")
            pages = admin.run(_pages(process), listener, tls=pages_tls, access=access)
            parts = _parts(process, pages).items()
            running = [group.create_task(forever(work, name), name=name) for name, work in parts]
            opened = group.create_task(process.keeper.is_open.wait(), name="first pools")
            await asyncio.wait({told, opened}, return_when=asyncio.FIRST_COMPLETED)
            if opened.done():
                await checks.start()
                gc.freeze()  # what has lived until here lives for ever: no need to look at it again
                taken = (checks.port, listener.getsockname()[1])
                logger.info("serving", extra={"fields": _what_is_served(flags, process, taken)})
            by_kubelet = await told is signal.SIGTERM and process.namespaces is not None
            await _leave(process, drain(flags, in_kubernetes=by_kubelet))
            await checks.stop(0)
            if process.tracing is not None:
                await asyncio.to_thread(process.tracing.stop)
            request_log.flush()
            logger.info("stopped")
            for task in (*running, opened):
                task.cancel()
