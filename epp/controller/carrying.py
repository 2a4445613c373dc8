"""Steps carried out, kind by kind, and what became of each.

Place:   used by loop.py and by ``epp apply``.
Rule:    what is of an input of which a step has failed is not gone on with: its route is not applied without
         its policy, and nothing of it is deleted. Other inputs do not suffer. An API that is away ends all.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from epp.controller.cluster import Taken
from epp.controller.difference import Step, Verb
from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault, Expired

AT_ONCE = 8
"""Writes of one kind that are on their way; an API server lets a client have 10 and more."""
_AWAY = frozenset({0, 401, 429, 503, 504})
"""Answers that say nothing of the object, and would be the same for the next."""


class Fate(StrEnum):
    """What became of a step."""

    DONE = "done"
    FAILED = "failed"
    TAKEN = "taken"
    """The object is somebody else's."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Ended:
    """``result``: the object as it is now; None: it is gone, or nothing was written."""

    step: Step
    fate: Fate
    why: str = ""
    result: Object | None = None


@dataclass(slots=True)
class Report:
    """Steps that have ended, in that order. ``stopped``: why it was not gone on with; empty: it was."""

    ended: list[Ended] = field(default_factory=list)
    stopped: str = ""

    def of(self, *fates: Fate) -> list[Ended]:
        """Those that ended so."""
        return [one for one in self.ended if one.fate in fates]

    @property
    def is_whole(self) -> bool:
        """Everything was done."""
        return not self.stopped and all(one.fate is Fate.DONE for one in self.ended)


class Writer(Protocol):
    """What is needed of cluster.Cluster."""

    async def create(self, document: Object) -> Object: ...

    async def change(self, document: Object) -> Object: ...

    async def delete(self, live: Object) -> None: ...


async def carry_out(
    steps: Sequence[Step],
    writer: Writer,
    *,
    blocked: Iterable[str] = (),
    on_end: Callable[[Ended], None] = lambda _: None,
    may_write: Callable[[], bool] = lambda: True,
    at_once: int = AT_ONCE,
) -> Report:
    """``steps``, which are in order. ``blocked``: inputs of which something else cannot be written.

    ``may_write``: false: we lead no longer.
    """
    work = _Work(writer, on_end, may_write, at_once, set(blocked))
    for _, together in itertools.groupby(steps, key=lambda step: (step.verb is Verb.DELETE, step.key[0])):
        await work.do(list(together))
    return work.report


class _Work:
    def __init__(
        self,
        writer: Writer,
        on_end: Callable[[Ended], None],
        may_write: Callable[[], bool],
        at_once: int,
        blocked: set[str],
    ) -> None:
        self.report = Report()
        self._writer = writer
        self._on_end = on_end
        self._may_write = may_write
        self._slots = asyncio.Semaphore(at_once)
        self._blocked = blocked
        """Inputs of which a step has failed."""

    async def do(self, steps: Iterable[Step]) -> None:
        blocked = frozenset(self._blocked)  # those of one kind do not need each other
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(self._step(step, blocked), name=f"{step.verb}: {step.title}")

    async def _step(self, step: Step, blocked: frozenset[str]) -> None:
        async with self._slots:
            if self.report.stopped or not self._may_write():
                self.report.stopped = self.report.stopped or "this replica leads no longer"
                self._end(Ended(step, Fate.SKIPPED, self.report.stopped))
            elif held := sorted(step.sources & blocked):
                self._end(Ended(step, Fate.SKIPPED, f"something else of {held[0]} could not be written"))
            else:
                self._end(await self._write(step))

    async def _write(self, step: Step) -> Ended:
        try:
            return Ended(step, Fate.DONE, result=await _written(step, self._writer))
        except Taken as taken:
            return Ended(step, Fate.TAKEN, str(taken))
        except (ApiFault, Expired) as fault:
            if isinstance(fault, ApiFault) and fault.status in _AWAY:
                self.report.stopped = self.report.stopped or str(fault)
            return Ended(step, Fate.FAILED, str(fault))

    def _end(self, ended: Ended) -> None:
        if ended.fate is not Fate.DONE:
            self._blocked |= ended.step.sources
        self.report.ended.append(ended)
        self._on_end(ended)


async def _written(step: Step, writer: Writer) -> Object | None:
    match step.verb:
        case Verb.CREATE:
            assert step.wanted is not None
            return await writer.create(step.wanted)
        case Verb.CHANGE:
            assert step.wanted is not None
            return await writer.change(step.wanted)
        case Verb.DELETE:
            assert step.live is not None
            await writer.delete(step.live)
            return None
