"""What each stage of a request costs, measured inside the running code.

Place:   used by bench.profile around bench.replay.
Ignores: what is replayed.
Rule:    a stage's time is its own: what it calls of another stage counts there. A stopwatch costs, too;
         what it costs is measured first and taken off. What no stopwatch is on is the driver's.
"""

import functools
import importlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.replay import Replay

DRIVER = "HTTP/2 and gRPC"
STAGES: Mapping[str, Sequence[str]] = {
    "messages decoded": ("epp.wire.usual:event",),
    "conversation": (
        "epp.runtime.ext_proc:ExtProc.open",
        "epp.runtime.ext_proc:Conversation.receive",
        "epp.runtime.ext_proc:Conversation.close",
        "epp.core.stream:Stream.delivered",
    ),
    "request parsed": ("epp.core.stream:parse",),
    "prefix hashed, found, kept": (
        "scorers.approx_prefix_cache_producer:ApproxPrefixCacheProducer.produce",
        "scorers.approx_prefix_cache_producer:ApproxPrefixCacheProducer.picked",
    ),
    "scored and picked": ("epp.core.scheduling:Scheduler.pick",),
    "answers encoded": ("epp.wire.ext_proc:encode",),
    "response read": (
        "epp.core.stream:reader_for",
        "epp.core.response_reader:ResponseReader.feed",
        "epp.core.response_reader:ResponseReader.end",
    ),
    "metrics": (
        "epp.runtime.metrics:StreamMetrics.opened",
        "epp.runtime.metrics:StreamMetrics.closed",
        "epp.runtime.reporting:Reporter.placed",
        "epp.runtime.reporting:Reporter.finished",
    ),
    "log line": ("epp.runtime.logs:RequestLog.finished",),
}
"""In the order in which a request meets them: ``module:function`` or ``module:Class.method``, overriding
methods of subclasses included."""

clock = time.perf_counter_ns  # a quarter of the price of a clock of CPU time; the best of many counts


class Stopwatch:
    """Nanoseconds and calls by stage; stage 0 is whatever has none."""

    def __init__(self, stages: int) -> None:
        self.spent = [0] * (stages + 1)
        self.calls = [0] * (stages + 1)
        self.children = [0] * (stages + 1)
        """Stages that were entered from this one."""
        self._now_in = 0
        self._since = 0

    def start(self) -> None:
        """From zero, in stage 0."""
        for figures in (self.spent, self.calls, self.children):
            figures[:] = [0] * len(figures)
        self._now_in = 0
        self._since = clock()

    def stop(self) -> None:
        self.spent[self._now_in] += clock() - self._since

    def on(self, function: Callable[..., Any], stage: int) -> Callable[..., Any]:
        """``function`` with its time counted for ``stage``."""
        spent, calls, children = self.spent, self.calls, self.children

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            left = clock()
            outer = self._now_in
            spent[outer] += left - self._since
            children[outer] += 1
            calls[stage] += 1
            self._now_in = stage
            self._since = clock()
            try:
                return function(*args, **kwargs)
            finally:
                back = clock()
                spent[stage] += back - self._since
                self._now_in = outer
                self._since = clock()

        return timed


def of_replay(replay: Replay, repetitions: int) -> dict[str, float]:
    """CPU seconds of one time, by stage; the best of so many times."""
    whole = min(replay.say(replay.ready()) for _ in range(repetitions))
    watch = Stopwatch(len(STAGES))
    within, around = _own_cost(watch)
    best = [float("inf")] * len(STAGES)
    with _watched(watch):
        for _ in range(repetitions):
            replay.say(replay.ready(), before=watch.start)
            watch.stop()
            for number in range(len(STAGES)):
                stage = number + 1
                own = watch.calls[stage] * within + watch.children[stage] * around
                best[number] = min(best[number], (watch.spent[stage] - own) / 1e9)
    stages = dict(zip(STAGES, best, strict=True))
    return {DRIVER: whole - sum(stages.values()), **stages}


def _own_cost(watch: Stopwatch, calls: int = 20_000) -> tuple[float, float]:
    """What one call of a stopwatch adds to the stage within it and to the one around it [ns]."""

    def nothing() -> None:
        """A call is what is measured."""

    timed = watch.on(nothing, 1)
    within, around = [], []
    for _ in range(10):
        began = clock()
        for _ in range(calls):
            pass
        empty = clock() - began
        began = clock()
        for _ in range(calls):
            nothing()
        plain = clock() - began
        watch.start()
        for _ in range(calls):
            timed()
        watch.stop()
        within.append((watch.spent[1] - (plain - empty)) / calls)
        around.append((watch.spent[0] - empty) / calls)
    return min(within), min(around)


# --- putting stopwatches on ------------------------------------------------------------------------


@contextmanager
def _watched(watch: Stopwatch) -> Iterator[None]:
    """A stopwatch on everything in STAGES, for the block's time."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for stage, targets in enumerate(STAGES.values(), 1):
            for target in targets:
                for owner, name in found(target):
                    before.append((owner, name, vars(owner)[name]))
                    setattr(owner, name, watch.on(vars(owner)[name], stage))
        yield
    finally:
        for owner, name, function in reversed(before):
            setattr(owner, name, function)


def found(target: str) -> list[tuple[Any, str]]:
    """Where a function or method hangs, overriding ones included. LookupError where there is none."""
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        owner = vars(owner).get(part)
    places = [owner, *(_descendants(owner) if outer and owner is not None else ())]
    places = [place for place in places if place is not None and inspect.isfunction(vars(place).get(name))]
    if not places:
        raise LookupError(f"bench.stages: there is no {target} (any more): STAGES must name what there is")
    return [(place, name) for place in places]


def _descendants(cls: type) -> list[type]:
    children: list[type] = cls.__subclasses__()
    return [*children, *(one for child in children for one in _descendants(child))]
