"""Leader election on a Lease: which of several replicas is to get the traffic.

Place:   run by main with --ha-enable-leader-election; epp.runtime.health asks ``is_leader``.
Ignores: what a leader does: every replica follows the fleet and answers whoever asks it.
Rule:    epp.core.election decides; here the Lease is read and written. The lease is given back when the
         process is told to stop, so that the next one has it within a try and not after 15 s.
Source:  client-go, tools/leaderelection.
"""

import asyncio
import datetime as dt
import logging
import os
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec

from epp.core.election import JITTER, LEASE_SECONDS, RETRY_PERIOD, Bid, Election, Record
from epp.runtime.kubernetes.api import WRITE_TIMEOUT, Resource
from epp.runtime.kubernetes.store import ApiFault, Expired
from epp.runtime.metrics import Family, Single

logger = logging.getLogger("epp.leader")

RELEASE_SECONDS = 5.0
"""As long as the end may wait for it."""
_REMEDY = (
    "grant it as deploy/kubernetes/rbac.yaml does, or say with --pool-namespace where the Lease is to be"
)
LEASES = Resource("leases", "coordination.k8s.io", "v1")


class Api(Protocol):
    """What is needed of epp.runtime.kubernetes.api."""

    async def fetch(
        self, path: str, query: Mapping[str, str], *, timeout: aiohttp.ClientTimeout = ...
    ) -> bytes: ...

    async def write(self, method: str, path: str, document: Mapping[str, Any]) -> bytes: ...


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _Spec = _Spec()


def own_identity() -> str:
    """Whose name the Lease shows: the pod's, and what tells two processes of one name apart."""
    return f"{os.uname().nodename}_{uuid.uuid4()}"


class Leadership:
    """One candidate, as long as ``run`` runs and until ``release``. ``api`` is open."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        today: Callable[[], dt.datetime],
        chance: random.Random,
    ) -> None:
        self._api, self._clock, self._today, self._chance = api, clock, today, chance
        self._namespace, self._name = namespace, name
        self._home = LEASES.path(namespace)
        self._election = Election(identity)
        self._document: dict[str, Any] = {}
        """The Lease as the API has it, with whatever others have written into it."""
        self._turn = asyncio.Lock()
        self._error = ""
        self._led, self._leader_told = False, ""

    # --- what others ask

    @property
    def is_leader(self) -> bool:
        """Now, by our own clock: a process that was asleep too long is none."""
        return self._election.leads(self._clock())

    @property
    def reason(self) -> str:
        """Why this process is not the leader; empty when it is."""
        if self.is_leader:
            return ""
        leader = self._election.leader
        who = f"that is {leader}" if leader else "nobody is"
        return f"not the leader of {self._namespace}/{self._name}: {self._error or who}"

    def detail(self) -> str:
        """What is wrong, for /readyz; empty when nothing is."""
        return self._error

    def families(self) -> Iterable[Family]:
        text = "1: this replica leads and is to get the traffic; 0: it follows."
        yield from Single("fleet_epp_leader", text, lambda: float(self.is_leader)).families()

    # --- life

    async def run(self) -> None:
        """Renew, or wait for one's turn."""
        while not self._election.is_leaving:
            await self._try()
            await asyncio.sleep(RETRY_PERIOD * (1.0 + JITTER * self._chance.random()))
        await asyncio.Event().wait()  # what goes on as long as the process does is not to end

    async def release(self) -> None:
        """Lead no longer, from the first moment on, and let the next one take over at once."""
        self._election.leave()
        try:
            async with asyncio.timeout(RELEASE_SECONDS), self._turn:
                bid = self._election.release()
                if bid is not None:
                    await self._write(bid)
                    logger.info("the lease is given back", extra={"fields": self._fields()})
        except (ApiFault, Expired, TimeoutError) as fault:
            fields = self._fields(error=str(fault), runs_out_in_seconds=LEASE_SECONDS)
            logger.warning("the lease cannot be given back: it runs out", extra={"fields": fields})

    async def _try(self) -> None:
        """One bid or renewal; says what follows from it."""
        error = ""
        try:
            async with self._turn:
                await self._bid()
        except (ApiFault, Expired) as fault:
            is_refused = isinstance(fault, ApiFault) and fault.status == 403
            error = f"{fault}: {_REMEDY}" if is_refused else str(fault)
        if not self._election.is_leaving:
            self._tell(error)

    async def _bid(self) -> None:
        if not self._election.must_read(self._clock()):
            try:
                if (bid := self._election.bid(self._clock())) is not None:
                    await self._write(bid)
            except (ApiFault, Expired) as fault:  # somebody else has written: look, and try once more
                logger.debug("not renewed at once", extra={"fields": self._fields(error=str(fault))})
            else:
                return
        self._election.read(await self._read(), self._clock())
        if (bid := self._election.bid(self._clock())) is not None:
            try:
                await self._write(bid)
            except ApiFault as fault:
                if fault.status != 409:
                    raise
                self._election.read(await self._read(), self._clock())  # another one was quicker: who?

    # --- the API

    async def _read(self) -> Record | None:
        try:
            body = await self._api.fetch(f"{self._home}/{self._name}", {}, timeout=WRITE_TIMEOUT)
        except ApiFault as fault:
            if fault.status == 404:
                return None
            raise
        return self._record(body)

    async def _write(self, bid: Bid) -> None:
        asked_at = self._clock()
        try:
            if bid.on is None:
                body = await self._api.write("POST", self._home, self._written(bid))
            else:
                body = await self._api.write("PUT", f"{self._home}/{self._name}", self._written(bid))
            self._election.taken(bid, self._record(body), asked_at, self._clock())
        except (ApiFault, Expired):
            self._election.refused()
            raise

    def _record(self, body: bytes) -> Record:
        try:
            lease = msgspec.json.decode(body, type=_Lease)
            self._document = msgspec.json.decode(body)
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"the Lease is not understood: {fault}") from fault
        spec = lease.spec
        return Record(
            holder=spec.holder_identity or "",
            seconds=max(spec.lease_duration_seconds or 0, 1),
            transitions=spec.lease_transitions or 0,
            version=lease.metadata.resource_version,
        )

    def _written(self, bid: Bid) -> dict[str, Any]:
        now = self._today().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = {} if bid.on is None else self._document
        meta = before.get("metadata", {"name": self._name, "namespace": self._namespace})
        acquired = before.get("spec", {}).get("acquireTime", now) if bid.is_renewal else now
        spec = {
            "holderIdentity": bid.holder,
            "leaseDurationSeconds": bid.seconds,
            "leaseTransitions": bid.transitions,
            "acquireTime": acquired,
            "renewTime": now,
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    # --- for people

    def _tell(self, error: str) -> None:
        """Once for each change: who leads, and what is wrong."""
        leads, leader = self.is_leader, self._election.leader
        if error and error != self._error:
            logger.warning(
                "the lease cannot be had", extra={"fields": self._fields(error=error, is_leader=leads)}
            )
        if leads is not self._led:
            if leads:
                logger.info("this replica leads", extra={"fields": self._fields()})
            else:
                logger.warning("this replica leads no longer", extra={"fields": self._fields(error=error)})
        if leader != self._leader_told and leader not in {"", self._election.identity}:
            logger.info("another replica leads", extra={"fields": self._fields(leader=leader)})
        self._error, self._led, self._leader_told = error, leads, leader

    def _fields(self, **more: Any) -> dict[str, Any]:
        shown = {name: value for name, value in more.items() if value != ""}
        return {"lease": f"{self._namespace}/{self._name}", "identity": self._election.identity, **shown}
