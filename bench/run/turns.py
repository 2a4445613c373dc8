"""Stretches of load on one server after the other: who is asked when, with what.

Place:   bench.run.__main__ and bench.side_by_side say what is wanted; bench.run.play plays each stretch.
Rule:    in one round every server is asked the same sessions: the same lengths at the same times, in other
         words, so that none fills a cache in which another then finds its prompts. Each round begins with
         another server. One server alone is asked in one stretch.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.load import MAX_REQUESTS, Options
from bench.run.figures import slices
from bench.run.play import Limits, Stretch
from bench.run.progress import Follow
from bench.run.report import Contender
from bench.run.server import Server
from bench.workloads.generate import Rate, generate
from bench.workloads.sessions import Session
from bench.workloads.spec import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is asked, and when."""

    seconds: float
    """For each server, in all of its turns."""
    salt: str
    rate: float | None = None
    """Requests a second; None: the workload's."""
    requests: int = MAX_REQUESTS
    in_flight: int = 1_024
    seed: int = 1
    rounds: int = 5
    warm_up: float = 0.0
    """Of each turn, that is not counted [s]."""
    ignore_eos: bool = False


@dataclass(slots=True, kw_only=True)
class Turns:
    """What is planned, and what was played of it. Raises ConfigError for a workload that has no rate."""

    names: Sequence[str]
    servers: Sequence[Server]
    workload: Workload
    settings: Settings
    options: Options
    played: list[list[Stretch]] = field(init=False)
    """Of each server."""
    stopped: str = ""
    """Why it was broken off."""

    def __post_init__(self) -> None:
        self.played = [[] for _ in self.servers]
        self._sessions(1)  # a workload without a rate says so now

    @property
    def _stretches(self) -> int:
        """Of each server."""
        return 1 if len(self.servers) == 1 else self.settings.rounds

    @property
    def _seconds(self) -> float:
        """Of a stretch."""
        return self.settings.seconds / self._stretches

    async def play(self) -> None:
        """Until all have had their turns, or one takes no connections any more."""
        count = len(self.servers)
        with Follow(self.settings.seconds * count) as follow:
            for number in range(1, self._stretches + 1):
                for place in range(count):
                    await self._turn((number - 1 + place) % count, number, follow)
                    if self.stopped:
                        return

    async def _turn(self, server: int, number: int, follow: Follow) -> None:
        stretch = self._stretch(server, number)
        self.played[server].append(stretch)
        async with follow.over(self.names[server], stretch):
            await stretch.play()
        self.stopped = stretch.broken

    def _stretch(self, server: int, number: int) -> Stretch:
        settings = self.settings
        return Stretch(
            server=self.servers[server],
            sessions=self._sessions(number),
            limits=Limits(
                seconds=self._seconds,
                requests=max(1, settings.requests // self._stretches),
                in_flight=settings.in_flight,
            ),
            options=self.options,
            users=self.workload.arrivals.users,
            salt=f"{settings.salt} {server} {number} ",
            ignore_eos=settings.ignore_eos,
        )

    def _sessions(self, number: int) -> Iterator[Session]:
        settings = self.settings
        rate = None if settings.rate is None else Rate(settings.rate)
        chance = random.Random(f"{settings.seed}: round {number}")
        return generate(self.workload, chance, rate=rate, seconds=self._seconds)

    def contenders(self) -> list[Contender]:
        """With the parts of time that count: rounds that were completed, or slices of the only stretch."""
        found = []
        for name, server, stretches in zip(self.names, self.servers, self.played, strict=True):
            if len(self.servers) == 1:
                count = self.settings.rounds
                parts = [one for each in stretches for one in slices(each, count, self.settings.warm_up)]
            else:
                complete = [each for each in stretches if each.is_complete]
                parts = [one for each in complete for one in slices(each, 1, self.settings.warm_up)]
            found.append(
                Contender(name=name, server=server, stretches=stretches, parts=dict(enumerate(parts, 1)))
            )
        return found
