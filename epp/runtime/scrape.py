"""Looks at every endpoint of a fleet again and again, and tells the fleet what it saw.

Place:   writes epp.core.fleet (reading, answered, lost); kicked by whoever picks; run by epp.main.
Ignores: what a reading is used for, and how one is made (epp.runtime.probe).
Rule:    an answer that says nothing about the load is not a load of zero; a server that cannot be
         talked to is lost at once, and no other endpoint waits for it.

One task holds the agenda. A look is a short task of its own, at most ``in_flight`` of them. A
kept-alive connection to each endpoint is the fastest witness of its death: when the peer closes it,
one reconnect tells an idle timeout (it works) from a dead process (it is refused).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from epp.core.engines import ENGINE_LABELS, ENGINES
from epp.core.fleet import Endpoint, Fleet, Load
from epp.core.pacing import Agenda, Pace, Standing
from epp.runtime.http_client import FetchError
from epp.runtime.probe import Probe, ProbeSettings, ScrapeStats, TlsContexts, Unavailable
from scorers.core_metrics_extractor import CoreMetricsExtractor
from scorers.metrics_data_source import MetricsDataSource

__all__ = [
    "Pace",
    "ProbeSettings",
    "ScrapeSettings",
    "ScrapeStats",
    "Scraper",
    "scrape_settings",
]

logger = logging.getLogger("epp.scrape")

TIMER_STEP = 0.001
"""What the loop's timers round to [s]: a look that is due sooner than this is made at once. Waiting for it
is being woken too early, seven times a look where looks are due at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeSettings:
    """When to look, and how."""

    pace: Pace = field(default_factory=Pace)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    in_flight: int = 64
    """Looks at a time. A dead address takes a place for a whole timeout; a page takes memory."""


def scrape_settings(source: MetricsDataSource, extractor: CoreMetricsExtractor, pace: Pace) -> ScrapeSettings:
    """What the configuration's plugins say about reading metrics."""
    own = {engine.name: engine.adapter() for engine in extractor.engine_configs}
    certificate = (source.client_cert_path, source.client_key_path) if source.client_cert_path else None
    probe = ProbeSettings(
        scheme=source.scheme,
        port=source.port,
        path=source.path,
        verify_tls=not source.insecure_skip_verify,
        ca_file=source.ca_cert_path or None,
        client_certificate=certificate,
        engines={**ENGINES, **own},
        engine_labels=tuple(dict.fromkeys((extractor.engine_label_key, *ENGINE_LABELS))),
        default_engine=extractor.default_engine,
    )
    return ScrapeSettings(pace=pace, probe=probe)


class _Watch:
    """When to look at one endpoint."""

    __slots__ = (
        "busy",
        "busy_until",
        "closed_idle",
        "defect",
        "endpoint",
        "failures",
        "has_answered",
        "hot",
        "looked_before",
        "lost_at",
        "may_reconnect",
        "probe",
        "standing",
        "task",
    )

    probe: Probe

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.task: asyncio.Task[None] | None = None
        self.standing = Standing.QUIET
        self.failures = 0
        self.lost_at: float | None = None
        self.looked_before = False
        self.has_answered = False
        self.hot = False
        """Picked since its last look began."""
        self.busy = False
        self.busy_until = float("-inf")
        self.closed_idle = False
        """The next look was made due by the end of an idle connection."""
        self.may_reconnect = True
        """False after such a look: a server that closes after each answer is not asked without end."""
        self.defect = ""
        """What was unexpected about the last look."""

    def carry_on(self, former: "_Watch") -> None:
        """Watch the same server in ``former``'s place, only to be asked differently."""
        self.failures, self.lost_at = former.failures, former.lost_at
        self.looked_before, self.has_answered = former.looked_before, former.has_answered
        self.hot, self.busy_until = former.hot, former.busy_until


class Scraper:
    """Watches the endpoints of one fleet. ``run`` must be running for anything to happen.

    ``on_lost`` hears of an endpoint when it is lost, once until it is back.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: ScrapeSettings | None = None,
        *,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        chance: Random,
        on_lost: Callable[[Endpoint], None] = lambda endpoint: None,
    ) -> None:
        self.stats = ScrapeStats()
        self._fleet = fleet
        self._settings = settings or ScrapeSettings()
        self._clock = clock
        self._unix_clock = unix_clock
        self._chance = chance
        self._on_lost = on_lost
        self._contexts = TlsContexts(self._settings.probe)
        self._watches: dict[Endpoint, _Watch] = {}
        self._first_looks = asyncio.Event()
        """Set whenever an endpoint has been looked at for the first time."""
        self._agenda: Agenda[_Watch] = Agenda()
        self._busy = 0
        self._looking = 0
        self._alarm: asyncio.Future[None] | None = None
        self._alarm_at = float("inf")
        self.update(fleet.endpoints, (), ())

    # --- what others call

    def update(
        self, added: Iterable[Endpoint], changed: Iterable[Endpoint], removed: Iterable[Endpoint]
    ) -> None:
        """Take over what ``Fleet.replace`` returned."""
        for endpoint in removed:
            self._unwatch(endpoint)
        for endpoint in added:
            if endpoint not in self._watches:
                self._watch(endpoint)
        for endpoint in changed:
            former = self._unwatch(endpoint)
            self._watch(endpoint).carry_on(former)
        self._wake()

    def kick(self, endpoint: Endpoint) -> None:
        """A request goes to ``endpoint``: look at it more often. Almost free while it is busy."""
        watch = self._watches.get(endpoint)
        if watch is not None and not watch.hot:
            watch.hot = True
            if watch.task is None and not watch.busy:
                self._hasten(watch)

    async def first_look(self, timeout: float) -> None:
        """Return when every endpoint has been looked at once, or after ``timeout`` [s]."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(not watch.looked_before for watch in self._watches.values()):
                    await self._first_looks.wait()
                    self._first_looks.clear()

    async def run(self) -> None:
        """Look until cancelled; then nothing is left open."""
        try:
            async with asyncio.TaskGroup() as looks:
                while True:
                    self._start_due(looks)
                    await self._sleep()
        finally:
            for watch in self._watches.values():
                await watch.probe.close()

    # --- the agenda

    def _watch(self, endpoint: Endpoint) -> _Watch:
        """From now on."""
        self._watches[endpoint] = watch = _Watch(endpoint)
        watch.probe = Probe(
            endpoint,
            self._settings.probe,
            stats=self.stats,
            contexts=self._contexts,
            clock=self._clock,
            unix_clock=self._unix_clock,
            on_idle_close=partial(self._idle_closed, watch),
        )
        self._agenda.put(watch, self._clock())
        return watch

    def _unwatch(self, endpoint: Endpoint) -> _Watch:
        watch = self._watches.pop(endpoint)
        self._set_busy(watch, False)
        self._agenda.drop(watch)
        if watch.task is not None:
            watch.task.cancel()
        watch.probe.abort()
        return watch

    def _is_current(self, watch: _Watch) -> bool:
        return self._watches.get(watch.endpoint) is watch

    def _start_due(self, looks: asyncio.TaskGroup) -> None:
        now = self._clock() + TIMER_STEP
        while self._looking < self._settings.in_flight:
            watch = self._agenda.take(now)
            if watch is None:
                return
            self._looking += 1
            watch.task = looks.create_task(self._look(watch), name=f"scrape: {watch.endpoint.name}")
            watch.task.add_done_callback(self._looked)

    def _looked(self, _task: asyncio.Task[None]) -> None:
        self._looking -= 1
        if self._looking == self._settings.in_flight - 1:
            self._wake()  # something due may have waited for a place

    async def _sleep(self) -> None:
        """Until the next look is due, or something changes the agenda."""
        due = self._agenda.next_due() if self._looking < self._settings.in_flight else None
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        self._alarm_at = due if due is not None else float("inf")
        timer = loop.call_later(max(due - self._clock(), 0.0), self._wake) if due is not None else None
        try:
            await self._alarm
        finally:
            self._alarm = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _put(self, watch: _Watch, due: float) -> None:
        self._agenda.put(watch, due)
        if due < self._alarm_at:
            self._wake()

    def _due(self, watch: _Watch, now: float, share: float) -> float:
        """When to look next, after ``share`` of the interval."""
        quiet = len(self._watches) - self._busy
        return self._settings.pace.next_due(
            watch.standing, now, busy=self._busy, quiet=quiet, failures=watch.failures, share=share
        )

    def _hasten(self, watch: _Watch) -> None:
        """Make a resting endpoint due as a busy one would be, a lost one as after its first failure."""
        if watch.standing is Standing.SILENT:
            return
        now = self._clock()
        if watch.standing is Standing.LOST:
            wanted = now + self._settings.pace.retry_first
        else:
            self._set_busy(watch, True)
            watch.standing = Standing.BUSY
            # somewhere in the second half of the interval: a burst of picks is no burst of looks
            wanted = self._due(watch, now, self._chance.uniform(0.5, 1.0))
        due = self._agenda.due(watch)
        if due is None or wanted < due:
            self._put(watch, wanted)

    def _set_busy(self, watch: _Watch, busy: bool) -> None:
        self._busy += busy - watch.busy
        watch.busy = busy

    def _idle_closed(self, watch: _Watch) -> None:
        """The peer closed a connection that waited for the next look: look now."""
        if watch.may_reconnect and watch.task is None and self._is_current(watch):
            watch.closed_idle = True
            self._put(watch, self._clock())

    # --- one look

    async def _look(self, watch: _Watch) -> None:
        started = self._clock()
        if watch.hot:
            watch.hot = False
            watch.busy_until = started + self._settings.pace.linger
        watch.may_reconnect, watch.closed_idle = not watch.closed_idle, False
        try:
            await self._ask(watch)
        except Exception as error:  # one endpoint's oddity must never end the watch over the others
            defect = f"defect: {type(error).__name__}: {error}"
            if defect != watch.defect:
                logger.exception(
                    "defect while looking at an endpoint", extra={"fields": _who(watch.endpoint)}
                )
            watch.defect = defect
            self._lost(watch, "defect", defect)
            watch.probe.abort()
        self.stats.seconds += self._clock() - started
        watch.task = None
        self._plan_next(watch)

    async def _ask(self, watch: _Watch) -> None:
        try:
            load = await watch.probe.read()
        except FetchError as error:
            self._lost(watch, error.kind.value, str(error))
            await watch.probe.lose()
        except Unavailable as error:
            self._lost(watch, "unavailable", str(error))
            await watch.probe.lose()
        else:
            self._answered(watch, load)

    def _answered(self, watch: _Watch, load: Load | None) -> None:
        endpoint, now = watch.endpoint, self._clock()
        if watch.lost_at is not None:
            gone = {"gone_seconds": round(now - watch.lost_at, 1)} if watch.has_answered else {}
            news = "endpoint is back" if watch.has_answered else "endpoint is available"
            logger.info(news, extra={"fields": _who(endpoint) | gone})
        watch.failures, watch.lost_at, watch.defect, watch.has_answered = 0, None, "", True
        engine = watch.probe.engine
        if load is None:
            watch.standing = Standing.SILENT
            self._fleet.answered(endpoint, now, engine=engine)
        else:
            watch.standing = Standing.QUIET
            self._fleet.reading(endpoint, load, now, engine=engine)

    def _lost(self, watch: _Watch, result: str, reason: str) -> None:
        self.stats.results[result] += 1
        self.stats.poll_errors += 1
        watch.standing = Standing.LOST
        watch.failures += 1
        endpoint = watch.endpoint
        self._fleet.lost(endpoint, self._clock(), reason)
        if watch.lost_at is None:
            watch.lost_at = self._clock()
            news = "endpoint is lost" if watch.has_answered else "endpoint is not available"
            logger.warning(news, extra={"fields": _who(endpoint) | {"reason": reason}})
            self._on_lost(endpoint)

    def _plan_next(self, watch: _Watch) -> None:
        if not self._is_current(watch):
            return
        now = self._clock()
        if watch.hot or watch.endpoint.requests_in_flight > 0:
            watch.busy_until = now + self._settings.pace.linger
        tells = watch.standing is Standing.QUIET
        self._set_busy(watch, tells and now < watch.busy_until)
        if watch.busy:
            watch.standing = Standing.BUSY
        # after the first look anywhere in the interval, so that endpoints found together part
        share = self._chance.uniform(0.9, 1.1) if watch.looked_before else self._chance.uniform(0.1, 1.0)
        if not watch.looked_before:
            watch.looked_before = True
            self._first_looks.set()
        self._put(watch, self._due(watch, now, share))


def _who(endpoint: Endpoint) -> dict[str, Any]:
    return {"endpoint": endpoint.name, "address": endpoint.address}
