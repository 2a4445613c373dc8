"""One play: clients ask, pickers choose, servers work, all in virtual time.

Place:   bench.sim.matrix plays one for each cell, policy and seed; bench.sim.statistics counts it.
Ignores: how servers work, what clients want and how a policy chooses; networks take no time.
Rule:    pickers are the product's own: a Fleet, a Scheduler and plugins built from a configuration's text.
         They learn only what the product would: first tokens and ends of the requests that they sent, and
         readings. Every request ends once, and what it had reserved is given back.

A play has four parts. Warm-up: the first ``warm_up`` requests fill caches and queues and are not counted.
Then ``counted`` requests are; the time from the first of them to the last is the window in which output
tokens are counted. Then clients go on as before until each counted request has its first token, at most half
as long as the window: a queue that has built up is not relieved by the end of the count. At last nobody asks
any more, and what is under way comes to its end, or is left unfinished after an hour.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.sim.faults import Fault
from bench.sim.fleet import Machine
from bench.sim.jobs import End, Job, Timeline
from bench.sim.prompts import prompt_bytes
from bench.sim.readings import Readings, Scraper
from bench.sim.timeline import EventQueue
from bench.workloads.sessions import Piece, Session, Turn
from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from epp.core.fleet import Endpoint, Fleet, Reservation
from epp.core.members import Pools
from epp.core.rejection import Rejection
from epp.core.request import Api, Payload, Request
from epp.core.scheduling import Scheduler
from epp.runtime.plugins import load_types

MODEL = "simulated"
AFTER_WINDOW = 0.5
"""Clients go on for at most this part of the window."""
LAST_SECONDS = 3600.0
"""After the window; what has not ended then is unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything about a play but the policy. ``seed`` starts all chance."""

    machines: Callable[[Timeline], Sequence[Machine]]
    sessions: Callable[[], Iterable[Session]]
    """Ordered by ``at``."""
    warm_up: int
    counted: int
    readings: Readings = field(default_factory=Readings)
    pickers: int = 1
    """Each knows what it sent itself; requests go to any of them."""
    clients: int | None = None
    """So many have one session after the other, whatever ``at`` says; None: sessions come when they say."""
    ramp: float = 0.0
    """Until all of these have begun [s]: those that begin together go on together."""
    fault: Fault | None = None
    seed: str = ""
    ends_with_window: bool = False
    """Whatever is under way then."""


@dataclass(slots=True, eq=False, kw_only=True)
class Asked:
    """What is remembered of one request. Times [s] are None until they come."""

    is_counted: bool
    sent_at: float
    prompt_tokens: int
    output_tokens: int
    """That it gets if it is answered."""
    machine: int | None = None
    """Its number; None: the picker refused."""
    cached_tokens: int | None = None
    first_at: float | None = None
    ended_at: float | None = None
    end: End | None = None
    """None: it is unfinished."""


class _Exchange:
    """One request under way, from its pick on."""

    __slots__ = ("_asked", "_client", "_picker", "_play", "_reservation")

    def __init__(
        self, play: "Play", client: "_Client", asked: Asked, picker: "Picker", at: Reservation
    ) -> None:
        self._play, self._client, self._asked = play, client, asked
        self._picker, self._reservation = picker, at

    def first_token(self, now: float, cached_tokens: int) -> None:
        asked, reservation = self._asked, self._reservation
        assert asked.first_at is None and asked.ended_at is None
        asked.first_at, asked.cached_tokens = now, cached_tokens
        reservation.prefilled(now)
        self._picker.fleet.served(reservation.endpoint, now)
        self._play.heard_first(asked)

    def ended(self, now: float, end: End) -> None:
        fleet, reservation = self._picker.fleet, self._reservation
        if end is End.FAILED:
            fleet.failed(reservation.endpoint, now, "connection reset", sent_at=reservation.at)
        elif end is End.REFUSED:
            fleet.busy(reservation.endpoint, now, "its queue is full")
        reservation.release(now, self._asked.output_tokens if end is End.DONE else None)
        self._play.heard_end(self, self._client, self._asked, end)

    def cut_off(self) -> None:
        """The play is over: its stream is closed."""
        self._reservation.release()


def assembled(config: str, name: str) -> Assembly:
    """What a configuration makes. Raises ConfigError."""
    assembly = build(load(config, name), load_types())
    if assembly.flow is not None:
        raise ConfigError(f"{name}: featureGates: flowControl is not simulated: take it out")
    return assembly


class Picker:
    """One process of the product: what it knows of the machines, and how it chooses."""

    def __init__(self, config: str, name: str, machines: Sequence[Machine], play: "Play", seed: str) -> None:
        setting = play.setting
        assembly = assembled(config, name)
        self.fleet = Fleet(stale_after=setting.readings.stale_after)
        pools = Pools(self.fleet)
        members = pools.add()
        pools.replace(members, [machine.spec for machine in machines], play.timeline.now)
        self.numbers = {endpoint: number for number, endpoint in enumerate(members.endpoints)}
        self.scheduler = Scheduler(
            members,
            assembly.profile,
            assembly.producers,
            chance=random.Random(f"{seed}: ties"),
            others=assembly.others,
            handler=assembly.handler,
            admitters=assembly.admitters,
            remember=0,
        )
        self.scraper = Scraper(setting.readings, self.fleet, machines, play.timeline, f"{seed}: looks")

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        return self.fleet.endpoints


class _Client:
    """Whoever has one session."""

    __slots__ = ("_play", "_prompts", "_session", "_turn")

    def __init__(self, play: "Play", session: Session) -> None:
        self._play, self._session, self._prompts = play, session, session.prompts()
        self._turn = 0

    def begin(self) -> None:
        turn, prompt = next(self._prompts)
        self._ask(turn, prompt)

    def answered(self, end: End) -> bool:
        """An answer, or none: who gets none gives up. Whether there is more to ask."""
        following = next(self._prompts, None) if end is End.DONE else None
        if following is None:
            return False
        turn, prompt = following
        self._turn += 1
        self._play.timeline.later(turn.think, partial(self._ask, turn, prompt))
        return True

    def _ask(self, turn: Turn, prompt: Sequence[Piece]) -> None:
        session = self._session
        answer = session.answer(self._turn).name
        self._play.send(self, prompt, turn.output_tokens, answer=answer, priority=session.priority)


class Play:
    """``run`` once; then ``asked`` is every request, in the order in which they were sent."""

    def __init__(self, setting: Setting, config: str, name: str) -> None:
        self.setting, self.timeline = setting, EventQueue()
        self.machines = setting.machines(self.timeline)
        self.asked: list[Asked] = []
        seeds = [f"{setting.seed}: picker {number}" for number in range(setting.pickers)]
        self.pickers = [Picker(config, name, self.machines, self, seed) for seed in seeds]
        self.began: float | None = None
        """When the first counted request was sent, and ..."""
        self.until: float | None = None
        """... the last one [s]; None: there were none."""
        self._chance = random.Random(f"{setting.seed}: which picker")
        self._sessions: Iterator[Session] = iter(setting.sessions())
        self._clients = 0
        """That have a session now."""
        self._under_way: dict[_Exchange, None] = {}
        self._without_first = setting.counted
        """Counted requests that have no first token yet."""
        self._is_asking = True

    def run(self) -> None:
        for picker in self.pickers:
            picker.scraper.start()
        if self.setting.clients is None:
            self._expect()
        else:
            for number in range(self.setting.clients):
                self._next_session(self.setting.ramp * number / self.setting.clients)
        self.timeline.run()
        for exchange in self._under_way:
            exchange.cut_off()

    # --- what clients do

    def send(
        self, client: _Client, prompt: Sequence[Piece], output_tokens: int, *, answer: int, priority: int
    ) -> None:
        if not self._is_asking:
            return
        now, number, setting = self.timeline.now, len(self.asked), self.setting
        asked = Asked(
            is_counted=setting.warm_up <= number < setting.warm_up + setting.counted,
            sent_at=now,
            prompt_tokens=sum(piece.tokens for piece in prompt),
            output_tokens=output_tokens,
        )
        self.asked.append(asked)
        if asked.is_counted:
            self._count(number - setting.warm_up)
        payload = Payload(model=MODEL, prompt=prompt_bytes(prompt), streaming=True)
        request = Request(
            id=str(number),
            api=Api.COMPLETIONS,
            payload=payload,
            target_model=MODEL,
            priority=priority,
            shows_first_token=True,
        )
        pickers = self.pickers
        picker = pickers[0] if len(pickers) == 1 else self._chance.choice(pickers)
        decision = picker.scheduler.pick(request, now)
        if isinstance(decision, Rejection):
            self._over(client, asked, End.REFUSED)
            return
        reservation = decision.reservation
        exchange = _Exchange(self, client, asked, picker, reservation)
        self._under_way[exchange] = None
        asked.machine = picker.numbers[reservation.endpoint]
        self.machines[asked.machine].take(
            Job(
                prompt=prompt,
                output_tokens=output_tokens,
                first_token=exchange.first_token,
                ended=exchange.ended,
                answer=answer,
                priority=priority,
            )
        )

    # --- what is heard of requests

    def heard_first(self, asked: Asked) -> None:
        if asked.is_counted:
            self._has_first()

    def heard_end(self, exchange: _Exchange, client: _Client, asked: Asked, end: End) -> None:
        del self._under_way[exchange]
        self._over(client, asked, end)

    # --- inside

    def _over(self, client: _Client, asked: Asked, end: End) -> None:
        asked.ended_at, asked.end = self.timeline.now, end
        if asked.is_counted and asked.first_at is None:
            self._has_first()
        if self._is_asking and not client.answered(end):
            self._clients -= 1
            if self.setting.clients is not None:
                self._next_session()
        self._look_for_end()

    def _expect(self) -> None:
        """The next session comes when it says."""
        session = next(self._sessions, None)
        if session is None:
            return
        self._clients += 1
        self.timeline.later(max(0.0, session.at - self.timeline.now), partial(self._arrive, session))

    def _arrive(self, session: Session) -> None:
        if self._is_asking:
            self._expect()
            _Client(self, session).begin()

    def _next_session(self, seconds: float = 0.0) -> None:
        """Of a client that had one, or has none yet."""
        session = next(self._sessions, None)
        if session is not None:
            self._clients += 1
            self.timeline.later(seconds, _Client(self, session).begin)

    def _count(self, number: int) -> None:
        """Of the counted ones this is the next."""
        now, setting = self.timeline.now, self.setting
        if number == 0:
            self.began = now
            if setting.fault is not None:
                setting.fault.strike(self.machines, self.timeline)
        assert self.began is not None
        self.until = now
        if number < setting.counted - 1:
            return
        if setting.ends_with_window:
            self.timeline.stop()
        else:
            self.timeline.later(AFTER_WINDOW * (now - self.began), self._ask_no_more)
            self.timeline.later(LAST_SECONDS, self.timeline.stop)

    def _has_first(self) -> None:
        self._without_first -= 1
        if not self._without_first:
            self._ask_no_more()

    def _ask_no_more(self) -> None:
        self._is_asking = False
        for picker in self.pickers:
            picker.scraper.stop()
        self._look_for_end()

    def _look_for_end(self) -> None:
        if not self._clients:  # whatever was to be counted: nobody is left
            self._is_asking = False
        if not (self._is_asking or self._under_way):
            self.timeline.stop()
