"""The matrix: what is done to the victim, how it is undone, and what is expected.

Place:   played by bench.failover.play in a bench.failover.house; judged over all repetitions.
Ignores: which picker it is.
Rule:    data. A scenario is a row; a goal is a figure of its accounts with a limit.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.failover import faults
from bench.failover.account import Account
from bench.failover.front import Mode
from bench.failover.house import House, Stand

MOST_SHARE = 70
"""Per cent of a second's requests: what chance alone gives one of two servers at 50 a second, with three
standard deviations."""

Fault = Callable[[House], None]
Figure = Callable[[Sequence[Account]], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """At most ``limit`` (or at least, where ``at_least``); a figure of None was not reached."""

    what: str
    value: Figure
    limit: float
    unit: str = ""
    at_least: bool = False

    def is_reached(self, accounts: Sequence[Account]) -> bool:
        value = self.value(accounts)
        if value is None:
            return False
        return value >= self.limit if self.at_least else value <= self.limit


def worst(read: Callable[[Account], float | None]) -> Figure:
    """The largest of all repetitions; None where one has none."""

    def figure(accounts: Sequence[Account]) -> float | None:
        values = [read(one) for one in accounts]
        return max((v for v in values if v is not None), default=None) if None not in values else None

    return figure


def median(read: Callable[[Account], float]) -> Figure:
    """Of all repetitions."""
    return lambda accounts: statistics.median(map(read, accounts))


def least(read: Callable[[Account], float]) -> Figure:
    """The smallest of all repetitions."""
    return lambda accounts: min(map(read, accounts))


LAST_SENT = "last new request sent there"
AT_ONCE = (
    Goal(f"{LAST_SENT}, median", median(lambda one: one.last_sent * 1e3), 5, "ms"),
    Goal(f"{LAST_SENT}, worst", worst(lambda one: one.last_sent * 1e3), 50, "ms"),
)
SOON = (
    Goal(f"{LAST_SENT}, worst", worst(lambda one: one.last_sent), 1.5, "s"),
    Goal("last lost request sent", worst(lambda one: one.last_lost), 1.5, "s"),
)
ONE_MORE = Goal("lost beside those already on it", worst(lambda one: one.lost_new), 1)
NONE_BEFORE_A_BYTE = Goal("failed before any byte", worst(lambda one: one.failed), 0)
TWO_SENT = (
    Goal("new requests sent there", worst(lambda one: one.sent_after), 2),
    Goal("lost beside those already on it", worst(lambda one: one.lost_new), 2),
)
BACK = (
    Goal("back: first request after", worst(lambda one: one.back_after), 1, "s"),
    Goal("back: its share of the first second", worst(lambda one: 100 * one.first_second), MOST_SHARE, "%"),
    Goal("back: lost", worst(lambda one: one.lost_after_back), 0),
)
FEW_LOST = Goal("lost", lambda all_: 100 * sum(a.lost for a in all_) / sum(a.requests for a in all_), 5, "%")
NOTHING_LOST = Goal("lost", worst(lambda one: one.lost), 0)
KEEPS_SERVING = Goal("its share meanwhile", least(lambda one: 100 * one.kept_share), 30, "%", at_least=True)
TOLD = Goal("longest wait for a 503", worst(lambda one: one.told_after), 0.25, "s")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. ``strike`` is called at a known moment under load, ``heal`` when the fault's time is over."""

    name: str
    what: str
    strike: Fault
    heal: Fault
    expect: tuple[Goal, ...]
    stand: Stand = Stand.PLAIN
    times: int = 3
    """Repetitions, each in a house of its own."""
    fault_share: float = 0.4
    """Of a run's time."""
    longer: float = 1.0
    """Times as long as the others."""
    retries: bool = False
    """Envoy tries again elsewhere (override_host)."""
    open_streams: bool = False
    """Some long streams are open when it strikes."""
    can_serve: bool = False
    """It serves during the fault, or part of it: a request sent there is no mistake."""


SCENARIOS = (
    Scenario(
        "kill",
        "SIGKILL",
        strike=lambda house: house.victim.kill(),
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(*AT_ONCE, ONE_MORE, *BACK),
        times=7,
    ),
    Scenario(
        "kill-retried",
        "SIGKILL; Envoy retries (override_host)",
        strike=lambda house: house.victim.kill(),
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(*AT_ONCE, NONE_BEFORE_A_BYTE, *BACK),
        times=5,
        retries=True,
    ),
    Scenario(
        "terminate",
        "SIGTERM with open streams (this server ends at once)",
        strike=faults.terminate,
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(*AT_ONCE, ONE_MORE, *BACK),
        times=5,
        open_streams=True,
    ),
    Scenario(
        "terminate-retried",
        "SIGTERM with open streams; Envoy retries (override_host)",
        strike=faults.terminate,
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(*AT_ONCE, NONE_BEFORE_A_BYTE, *BACK),
        retries=True,
        open_streams=True,
    ),
    Scenario(
        "deaf",
        "takes no new connections; those that are open go on, that of the metrics too",
        strike=lambda house: house.say(Mode.DEAF),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(*TWO_SENT, *BACK),
        stand=Stand.FRONT,
    ),
    Scenario(
        "hang",
        "SIGSTOP, then SIGCONT",
        strike=faults.stop,
        heal=faults.go_on,
        expect=(*SOON, *BACK),
    ),
    Scenario(
        "half-open",
        "connections are taken and kept, nothing is said",
        strike=lambda house: house.say(Mode.SILENT),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(*SOON, *BACK),
        stand=Stand.FRONT,
    ),
    Scenario(
        "unplugged",
        "host unreachable: its link is down",
        strike=lambda house: house.island.unplug(),
        heal=lambda house: house.island.plug(),
        expect=(*SOON, *BACK),
        stand=Stand.ISLAND,
    ),
    Scenario(
        "dropped",
        "host unreachable: every answer is lost, no RST",
        strike=lambda house: house.island.lose(),
        heal=lambda house: house.island.find(),
        expect=(*SOON, *BACK),
        stand=Stand.ISLAND,
    ),
    Scenario(
        "restart",
        "killed and started again at once, same port",
        strike=lambda house: house.victim.kill(),
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(*AT_ONCE, ONE_MORE, *BACK),
        fault_share=0.0,
    ),
    Scenario(
        "moved",
        "killed and started again at another address; the endpoints file is rewritten",
        strike=lambda house: house.victim.kill(),
        heal=lambda house: house.move(),
        expect=(*AT_ONCE, ONE_MORE, *BACK),
        stand=Stand.MOVING,
        fault_share=0.1,
    ),
    Scenario(
        "renamed",
        "killed and started again at another address; its host name follows (DNS)",
        strike=lambda house: house.victim.kill(),
        heal=lambda house: house.move(),
        expect=(*AT_ONCE, ONE_MORE, *BACK),
        stand=Stand.NAMED,
        fault_share=0.1,
    ),
    Scenario(
        "loading",
        "restarted, and answers 503 “Loading model” meanwhile",
        strike=lambda house: house.say(Mode.LOADING),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(*TWO_SENT, *BACK),
        stand=Stand.FRONT,
    ),
    Scenario(
        "failing",
        "answers 500 while /health and /metrics are 200",
        strike=lambda house: house.say(Mode.FAILING),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(*TWO_SENT, *BACK[1:]),  # only a request can show that it serves again
        stand=Stand.FRONT,
    ),
    Scenario(
        "draining",
        "as vLLM shuts down: 500 “after shutdown”, /health 200, gauges 0",
        strike=lambda house: house.say(Mode.DRAINING),
        heal=lambda house: house.say(Mode.PASSING),
        expect=TWO_SENT,
        stand=Stand.FRONT,
    ),
    Scenario(
        "flapping",
        "dead for 2 s, alive for 2 s, and so on",
        strike=faults.flap,
        heal=lambda house: house.say(Mode.PASSING),
        expect=(FEW_LOST,),
        stand=Stand.FRONT,
        times=1,
        can_serve=True,
        fault_share=0.95,
        longer=12.0,
    ),
    Scenario(
        "all-dead",
        "both get SIGKILL, one comes back",
        strike=lambda house: house.kill_all(),
        heal=lambda house: house.victim.launch().wait_ready(),
        expect=(TOLD, BACK[0], BACK[2]),
    ),
    Scenario(
        "blind",
        "its metrics are dead, inference is fine",
        strike=lambda house: house.say(Mode.BLIND),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(NOTHING_LOST, KEEPS_SERVING),
        stand=Stand.FRONT,
        can_serve=True,
    ),
)
BY_NAME = {one.name: one for one in SCENARIOS}
