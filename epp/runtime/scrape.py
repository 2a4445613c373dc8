"""Looks at every endpoint of a fleet again and again, and tells the fleet what it saw.

Place:   writes epp.core.fleet (reading, answered, loading, lost, silent); kicked by whoever picks, told to
         doubt by whoever sees requests fail; run by epp.process.
Ignores: what follows from what it saw (epp.core.lifecycle), and how a reading is made (epp.runtime.probe).
Rule:    an answer that says nothing about the load is not a load of zero; a refused connection is a loss,
         everything else that is no answer is silence, and silence is asked about a second time, on a new
         connection, before it counts twice. Nobody waits for those that do not answer.

One task for each lane of endpoints keeps its agenda. A look is a short task of its own, at most
``in_flight`` of them. A kept-alive connection to each endpoint is the fastest witness of its death: when the
peer closes it, one reconnect tells an idle timeout (it works) from a dead process (it is refused).
"""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from epp.core.engines import ENGINE_LABELS, ENGINES
from epp.core.fleet import Endpoint, Fleet, Load
from epp.core.pacing import Agenda, Pace, Shares, Standing
from epp.runtime.http_client import Failure, FetchError
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
    """Looks at a time in each lane. A page takes memory; a dead address takes a place for a whole timeout,
    and so is in a lane of its own."""


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


class _Lane:
    """Endpoints whose looks share places."""

    def __init__(self, places: int) -> None:
        self.agenda: Agenda[_Watch] = Agenda()
        self.free = places
        self._alarm: asyncio.Future[None] | None = None
        self._alarm_at = math.inf

    def put(self, watch: "_Watch", due: float) -> None:
        """Look at ``watch`` at ``due`` [s]."""
        self.agenda.put(watch, due)
        if due < self._alarm_at:
            self.wake()

    def wake(self) -> None:
        """Have the agenda read again."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def leave(self, _look: asyncio.Task[None]) -> None:
        """A look is over."""
        self.free += 1
        if self.free == 1:
            self.wake()  # something due may have waited for a place

    async def sleep(self, clock: Callable[[], float]) -> None:
        """Until the next look is due, or something changes the agenda."""
        due = self.agenda.next_due() if self.free else None
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        self._alarm_at = due if due is not None else math.inf
        timer = loop.call_later(max(due - clock(), 0.0), self.wake) if due is not None else None
        try:
            await self._alarm
        finally:
            self._alarm, self._alarm_at = None, math.inf
            if timer is not None:
                timer.cancel()


class _Watch:
    """When to look at one endpoint."""

    __slots__ = (
        "blamed_at",
        "busy_until",
        "closed_idle",
        "defect",
        "doubt_from",
        "doubted",
        "endpoint",
        "hot",
        "lane",
        "looked_before",
        "lost_at",
        "may_reconnect",
        "probe",
        "second",
        "standing",
        "task",
        "tells",
    )

    probe: Probe

    def __init__(self, endpoint: Endpoint, lane: _Lane) -> None:
        self.endpoint = endpoint
        self.lane = lane
        self.task: asyncio.Task[None] | None = None
        self.second: asyncio.Task[bool] | None = None
        """The second look of the one that is under way."""
        self.standing = Standing.QUIET
        self.tells = False
        """Its last answer told how loaded it is."""
        self.lost_at: float | None = None
        """Since when it does not answer."""
        self.looked_before = False
        self.hot = False
        """Picked since its last look began."""
        self.busy_until = -math.inf
        self.doubted = False
        """The next look begins with a new connection: a request failed there."""
        self.doubt_from = -math.inf
        """When it may be doubted again."""
        self.blamed_at = -math.inf
        """When it was last blamed for a first token that does not come."""
        self.closed_idle = False
        """The next look was made due by the end of an idle connection."""
        self.may_reconnect = True
        """False after such a look: a server that closes after each answer is not asked without end."""
        self.defect = ""
        """What was unexpected about the last look."""

    def carry_on(self, former: "_Watch") -> None:
        """Watch the same server in ``former``'s place, only to be asked differently."""
        self.lost_at, self.looked_before = former.lost_at, former.looked_before
        self.hot, self.busy_until = former.hot, former.busy_until
        self.blamed_at = former.blamed_at


class Scraper:
    """Watches the endpoints of one fleet. ``run`` must be running for anything to happen.

    ``on_lost`` hears of an endpoint that does not answer, once until it does.
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
        self._answering, self._absent = (_Lane(self._settings.in_flight) for _ in range(2))
        self._shares = Shares()
        self._expected: deque[tuple[float, _Watch, asyncio.Task[None] | None]] = deque()
        """Looks that have begun and when they are late, the oldest first."""
        self._expectation: asyncio.TimerHandle | None = None
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

    def kick(self, endpoint: Endpoint) -> None:
        """A request goes to ``endpoint``: look at it more often. Almost free while it is busy."""
        watch = self._watches.get(endpoint)
        if watch is not None and not watch.hot:
            watch.hot = True
            if watch.task is None and watch.standing not in _BUSY:
                self._hasten(watch)

    def doubt(self, endpoint: Endpoint) -> None:
        """A request failed at ``endpoint``: see at once whether it takes new connections, and is ready."""
        watch = self._watches.get(endpoint)
        if watch is not None and watch.lane is self._answering and not watch.doubted:
            watch.doubted = True
            if watch.task is None:
                self._put(watch, max(self._clock(), watch.doubt_from))

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
                looks.create_task(self._keep(self._absent, looks), name="scrape: absent")
                await self._keep(self._answering, looks)
        finally:
            if self._expectation is not None:
                self._expectation.cancel()
            for watch in self._watches.values():
                await watch.probe.close()

    # --- the agenda

    def _watch(self, endpoint: Endpoint) -> _Watch:
        """From now on."""
        self._watches[endpoint] = watch = _Watch(endpoint, self._answering)
        self._shares.add(watch.standing, 1)
        watch.probe = Probe(
            endpoint,
            self._settings.probe,
            stats=self.stats,
            contexts=self._contexts,
            clock=self._clock,
            unix_clock=self._unix_clock,
            on_idle_close=partial(self._idle_closed, watch),
        )
        self._put(watch, self._clock())
        return watch

    def _unwatch(self, endpoint: Endpoint) -> _Watch:
        watch = self._watches.pop(endpoint)
        self._shares.add(watch.standing, -1)
        watch.lane.agenda.drop(watch)
        for task in (watch.task, watch.second):
            if task is not None:
                task.cancel()
        watch.probe.abort()
        return watch

    def _is_current(self, watch: _Watch) -> bool:
        return self._watches.get(watch.endpoint) is watch

    async def _keep(self, lane: _Lane, looks: asyncio.TaskGroup) -> None:
        """Make every look of ``lane`` when it is due."""
        while True:
            self._start_due(lane, looks)
            await lane.sleep(self._clock)

    def _start_due(self, lane: _Lane, looks: asyncio.TaskGroup) -> None:
        now = self._clock() + TIMER_STEP
        while lane.free:
            watch = lane.agenda.take(now)
            if watch is None:
                return
            lane.free -= 1
            watch.task = looks.create_task(self._look(watch, looks), name=f"scrape: {watch.endpoint.name}")
            watch.task.add_done_callback(lane.leave)

    def _put(self, watch: _Watch, due: float) -> None:
        lane = self._absent if watch.standing is Standing.LOST else self._answering
        if lane is not watch.lane:
            watch.lane.agenda.drop(watch)
            watch.lane = lane
        lane.put(watch, due)

    def _stand(self, watch: _Watch, standing: Standing) -> None:
        if standing is not watch.standing:
            self._shares.add(watch.standing, -1)
            self._shares.add(standing, 1)
            watch.standing = standing

    def _due(self, watch: _Watch, now: float, share: float) -> float:
        """When to look next, after ``share`` of the interval."""
        lost_for = 0.0 if watch.lost_at is None else now - watch.lost_at
        pace = self._settings.pace
        return pace.next_due(watch.standing, now, self._shares, lost_for=lost_for, share=share)

    def _hasten(self, watch: _Watch) -> None:
        """Make a resting endpoint due as a busy one would be, a lost one as one that has just been lost."""
        now = self._clock()
        if watch.standing in (Standing.LOST, Standing.LOADING):
            wanted = now + self._settings.pace.retry
        else:
            self._stand(watch, _busy(watch))
            # somewhere in the second half of the interval: a burst of picks is no burst of looks
            wanted = self._due(watch, now, self._chance.uniform(0.5, 1.0))
        due = watch.lane.agenda.due(watch)
        if due is None or wanted < due:
            self._put(watch, wanted)

    def _idle_closed(self, watch: _Watch) -> None:
        """The peer closed a connection that waited for the next look: look now."""
        if watch.may_reconnect and watch.task is None and self._is_current(watch):
            watch.closed_idle = True
            self._put(watch, self._clock())

    # --- one look

    async def _look(self, watch: _Watch, looks: asyncio.TaskGroup) -> None:
        started = self._clock()
        if watch.hot:
            watch.hot = False
            watch.busy_until = started + self._settings.pace.linger
        watch.may_reconnect, watch.closed_idle = not watch.closed_idle, False
        watch.probe.has_heard = False
        try:
            await self._ask(watch, looks)
        except Exception as error:  # noqa: BLE001 (one endpoint's oddity; logged as a defect)
            self._tell_defect(watch, error)
        finally:
            if watch.second is not None:
                watch.second.cancel()
                watch.second = None
        if watch.standing is Standing.LOST:
            await watch.probe.lose()
        self.stats.seconds += self._clock() - started
        watch.task = None
        self._plan_next(watch)

    async def _ask(self, watch: _Watch, looks: asyncio.TaskGroup) -> None:
        """See how ``watch`` is, and tell the fleet. Of one that does not answer, nothing but that is asked
        first."""
        health, is_lost = self._fleet.health, watch.standing is Standing.LOST
        if not is_lost:
            self._expect(watch, looks)
        try:
            if watch.doubted or is_lost:
                watch.doubted, watch.doubt_from = False, self._clock() + self._settings.pace.floor
                await watch.probe.check(health.second_silence)
            load = await watch.probe.read(health.silence + health.second_silence)
        except Unavailable as error:
            self._not_ready(watch, str(error))
        except FetchError as error:
            await self._failed(watch, error, looks)
        else:
            self._ready(watch, load)

    def _expect(self, watch: _Watch, looks: asyncio.TaskGroup) -> None:
        """Have an answer in time. One timer for all looks: most are answered within milliseconds."""
        silence = self._fleet.health.silence
        self._expected.append((self._clock() + silence, watch, watch.task))
        if self._expectation is None:
            loop = asyncio.get_running_loop()
            self._expectation = loop.call_later(silence, self._find_silent, looks)

    def _find_silent(self, looks: asyncio.TaskGroup) -> None:
        self._expectation = None
        expected, now = self._expected, self._clock()
        while expected:
            deadline, watch, look = expected[0]
            if watch.task is look and deadline > now + TIMER_STEP:
                loop = asyncio.get_running_loop()
                self._expectation = loop.call_later(deadline - now, self._find_silent, looks)
                return
            expected.popleft()
            if watch.task is look:
                self._ask_beside(watch, looks)

    def _ask_beside(self, watch: _Watch, looks: asyncio.TaskGroup) -> None:
        """No answer in time: ask once more on a new connection, and go on waiting for the first one."""
        if watch.second is None and not watch.probe.has_heard and self._is_current(watch):
            self._doubt_first(watch, f"no answer within {self._fleet.health.silence:g} s", looks)

    def _doubt_first(self, watch: _Watch, reason: str, looks: asyncio.TaskGroup) -> asyncio.Task[bool]:
        """The first question of a look came to nothing: that is one silence, whatever else becomes of it."""
        self._fleet.silent(watch.endpoint, self._clock(), reason)
        name = f"scrape: {watch.endpoint.name} again"
        watch.second = looks.create_task(self._safely_ask_again(watch), name=name)
        return watch.second

    async def _failed(self, watch: _Watch, error: FetchError, looks: asyncio.TaskGroup) -> None:
        self.stats.results[error.kind.value] += 1
        self.stats.poll_errors += 1
        if error.kind is Failure.OURS:
            return
        if error.kind is Failure.REFUSED or watch.standing is Standing.LOST:
            self._lost(watch, error)
            return
        if await (watch.second or self._doubt_first(watch, str(error), looks)):
            watch.probe.distrust_metrics(error)
            self._ready(watch, None)

    async def _safely_ask_again(self, watch: _Watch) -> bool:
        try:
            return await self._ask_again(watch)
        except Exception as error:  # noqa: BLE001 (one endpoint's oddity; logged as a defect)
            self._tell_defect(watch, error)
            return False

    async def _ask_again(self, watch: _Watch) -> bool:
        """Whether the serving port answers on a new connection; the fleet is told."""
        try:
            await watch.probe.check(self._fleet.health.second_silence)
        except Unavailable as error:
            self._not_ready(watch, str(error))
        except FetchError as error:
            if error.kind is not Failure.OURS:
                self._lost(watch, error)
        else:
            self._fleet.answered(watch.endpoint, self._clock(), engine=watch.probe.engine)
            return True
        return False

    def _ready(self, watch: _Watch, load: Load | None) -> None:
        endpoint, now = watch.endpoint, self._clock()
        watch.lost_at = None
        watch.tells = load is not None and (load.waiting is not None or load.running is not None)
        engine = watch.probe.engine
        if load is None:
            self._stand(watch, Standing.UNTOLD)
            self._fleet.answered(endpoint, now, engine=engine)
        else:
            watch.defect = ""
            self._stand(watch, Standing.QUIET)
            self._fleet.reading(endpoint, load, now, engine=engine)
        self._miss_first_token(watch, now)

    def _miss_first_token(self, watch: _Watch, now: float) -> None:
        """Blame an endpoint that looks well for a request that gets nothing, once for all that are there.

        Not one that says that requests wait: it has too much to do; nor one that has served others since.
        """
        oldest, limit = watch.endpoint.oldest_unanswered, self._fleet.health.first_token
        if oldest is None or now - oldest < limit or oldest <= watch.blamed_at:
            return
        if not watch.endpoint.load.waiting:
            watch.blamed_at = now
            reason = f"no first token for {now - oldest:.0f} s"
            self._fleet.late(watch.endpoint, now, reason, sent_at=oldest)

    def _not_ready(self, watch: _Watch, reason: str) -> None:
        self.stats.results["unavailable"] += 1
        self.stats.poll_errors += 1
        watch.lost_at = None
        self._stand(watch, Standing.LOADING)
        self._fleet.loading(watch.endpoint, self._clock(), reason, engine=watch.probe.engine)

    def _lost(self, watch: _Watch, error: FetchError) -> None:
        """It does not answer: refused, or silent once more."""
        self._stand(watch, Standing.LOST)
        now = self._clock()
        tell = self._fleet.lost if error.kind is Failure.REFUSED else self._fleet.silent
        tell(watch.endpoint, now, str(error))
        if watch.lost_at is None:
            watch.lost_at = now
            self._on_lost(watch.endpoint)

    def _tell_defect(self, watch: _Watch, error: Exception) -> None:
        """Nobody expected ``error``: the watch over the others must go on."""
        defect = f"defect: {type(error).__name__}: {error}"
        self.stats.results["defect"] += 1
        self.stats.poll_errors += 1
        if defect != watch.defect:
            fields = _who(watch.endpoint)
            logger.error("defect while looking at an endpoint", exc_info=error, extra={"fields": fields})
        if watch.probe.has_heard:  # it is there, whatever is odd about it
            watch.probe.distrust_metrics(error)
            self._ready(watch, None)
        else:
            self._stand(watch, Standing.LOST)
            self._fleet.silent(watch.endpoint, self._clock(), defect)
        watch.defect = defect

    def _plan_next(self, watch: _Watch) -> None:
        if not self._is_current(watch):
            return
        now = self._clock()
        if watch.hot or watch.endpoint.requests_in_flight > 0:
            watch.busy_until = now + self._settings.pace.linger
        if now < watch.busy_until and watch.standing in (Standing.QUIET, Standing.UNTOLD):
            self._stand(watch, _busy(watch))
        # after the first look anywhere in the interval, so that endpoints found together part
        share = self._chance.uniform(0.9, 1.1) if watch.looked_before else self._chance.uniform(0.1, 1.0)
        if not watch.looked_before:
            watch.looked_before = True
            self._first_looks.set()
        due, back_off_ends = self._due(watch, now, share), watch.endpoint.lifecycle.out_until
        if watch.doubted:
            due = min(due, watch.doubt_from)
        elif now < back_off_ends:
            due = min(due, back_off_ends)
        self._put(watch, due)


_BUSY = (Standing.BUSY, Standing.UNTOLD_BUSY)


def _busy(watch: _Watch) -> Standing:
    return Standing.BUSY if watch.tells else Standing.UNTOLD_BUSY


def _who(endpoint: Endpoint) -> dict[str, Any]:
    return {"endpoint": endpoint.name, "address": endpoint.address}
