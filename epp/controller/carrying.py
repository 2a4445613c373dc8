"""Steps carried out, kind by kind, and what became of each.

Place:   used by loop.py and by ``epp apply``.
Rule:    what is of an input of which a step has failed is not gone on with: its route is not applied without
         its policy, nothing is applied that names what is not there, and nothing of it is deleted. Other
         inputs do not suffer: what they share with it is applied for them, routes apart. An API that is away
         ends all.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from epp.compiler.emission import FROZEN, ROUTES
from epp.controller.cluster import Deposed, Taken
from epp.controller.difference import Key, Step, Verb, parts_of, rank, title
from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault, Expired

logger = logging.getLogger("epp.controller")

AT_ONCE = 8
"""Writes of one kind that are on their way; an API server lets a client have 10 and more."""
_AWAY = frozenset({0, 401, 429, 503, 504})


def is_away(fault: ApiFault | Expired) -> bool:
    """It says nothing of the object, and would be the same for the next."""
    return isinstance(fault, ApiFault) and fault.status in _AWAY


class Fate(StrEnum):
    """What became of a step."""

    DONE = "done"
    FAILED = "failed"
    TAKEN = "taken"
    """The object is somebody else's."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Ended:
    """``result``: the object as it is now; None: it is gone, or nothing was written. ``is_away``: the API
    was not there to say anything of it. ``fix``: how an object that is TAKEN may become ours."""

    step: Step
    fate: Fate
    why: str = ""
    result: Object | None = None
    is_away: bool = False
    fix: str = ""


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

    async def change(self, document: Object, live: Object) -> Object: ...

    async def delete(self, live: Object) -> None: ...


async def carry_out(
    steps: Sequence[Step],
    writer: Writer,
    *,
    blocked: Iterable[str] = (),
    held: Iterable[Ended] = (),
    on_end: Callable[[Ended], None] = lambda _: None,
) -> Report:
    """``steps``, which are in order. ``blocked``: inputs of which something else cannot be written.

    ``held``: steps that are not tried now, and what became of them before.
    """
    work = _Work(writer, on_end, blocked)
    for one in held:
        work.hold(one)
    for _, together in itertools.groupby(steps, key=lambda step: (step.verb is Verb.DELETE, step.key[0])):
        await work.do(list(together))
    return work.report


class _Work:
    def __init__(self, writer: Writer, on_end: Callable[[Ended], None], blocked: Iterable[str]) -> None:
        self.report = Report()
        self._writer = writer
        self._on_end = on_end
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._blocked = set(blocked)
        """Inputs of which a step has failed."""
        self._bare: set[str] = set()
        """Inputs without a policy that they should have: they get no route."""
        self._waiting: set[str] = set()
        """Inputs of which a route stays as it is: what it names is not deleted."""
        self._lost: set[Key] = set()
        """What should be there, and is not."""

    def hold(self, ended: Ended) -> None:
        """Not tried now."""
        self._block(ended.step)
        self._note(ended)

    async def do(self, steps: Iterable[Step]) -> None:
        reasons = [(step, self._why_not(step)) for step in steps]  # those of one kind do not need each other
        async with asyncio.TaskGroup() as group:
            for step, why_not in reasons:
                group.create_task(self._step(step, why_not), name=f"{step.verb}: {step.title}")

    async def _step(self, step: Step, why_not: str) -> None:
        async with self._slots:
            skipped = self.report.stopped or why_not
            self._end(Ended(step, Fate.SKIPPED, skipped) if skipped else await self._write(step))

    def _why_not(self, step: Step) -> str:
        """What keeps it from being tried; empty: nothing."""
        sources = sorted(parts_of(step.sources))
        is_last = step.verb is Verb.DELETE or step.key[0] in ROUTES
        more = self._waiting if step.verb is Verb.DELETE else self._bare if is_last else ()
        held = [one for one in sources if self._is_blocked(one) or one in more]
        # policies and pools of several inputs are applied for those that can go on: without, all would wait
        if held and (is_last or len(held) == len(sources)):
            return f"something else of {held[0]} could not be written"
        lost = {
            key for key in self._lost if rank(key)[0] < rank(step.key)[0]
        }  # a policy may name a later route
        content = {key: value for key, value in (step.wanted or {}).items() if key != "metadata"}
        named = set(_named(content, step.key[1])) if lost else set()
        found = sorted(key for key in lost if key in named or ("", *key[1:]) in named)
        return f"{title(found[0])}, which it names, is not there" if found else ""

    def _is_blocked(self, source: str) -> bool:
        """It, or the whole that it is a part of."""
        return source in self._blocked or "/".join(source.split("/")[:3]) in self._blocked

    async def _write(self, step: Step) -> Ended:
        try:
            return Ended(step, Fate.DONE, result=await _written(step, self._writer))
        except Taken as taken:
            return Ended(step, Fate.TAKEN, str(taken), fix=taken.fix)
        except Deposed as deposed:
            self.report.stopped = self.report.stopped or str(deposed)
            return Ended(step, Fate.SKIPPED, str(deposed))
        except (ApiFault, Expired) as fault:
            if is_away(fault):
                self.report.stopped = self.report.stopped or str(fault)
            return Ended(step, Fate.FAILED, str(fault), is_away=is_away(fault))
        except Exception as fault:  # the other objects are not to wait for one
            logger.exception("defect in a write", extra={"fields": {"object": step.title}})
            return Ended(step, Fate.FAILED, f"defect: {type(fault).__name__}: {fault}")

    def _end(self, ended: Ended) -> None:
        if ended.fate is Fate.SKIPPED and ended.step.key[0] in ROUTES:
            self._waiting |= parts_of(ended.step.sources)
        elif ended.fate is not Fate.DONE:
            self._block(ended.step)
        self._note(ended)
        self._on_end(ended)

    def _block(self, step: Step) -> None:
        self._blocked |= parts_of(step.sources)
        if step.key[0] in FROZEN:
            self._bare |= step.sources

    def _note(self, ended: Ended) -> None:
        if ended.step.verb is Verb.CREATE and ended.fate is not Fate.DONE:
            self._lost.add(ended.step.key)
        self.report.ended.append(ended)


async def _written(step: Step, writer: Writer) -> Object | None:
    match step.verb:
        case Verb.CREATE:
            assert step.wanted is not None
            return await writer.create(step.wanted)
        case Verb.CHANGE:
            assert step.wanted is not None and step.live is not None
            return await writer.change(step.wanted, step.live)
        case Verb.DELETE:
            assert step.live is not None
            await writer.delete(step.live)
            return None


def _named(value: Any, namespace: str) -> Iterator[Key]:
    """What a document refers to, as far as it says: where it says no kind, that is empty."""
    if isinstance(value, Mapping):
        if isinstance(name := value.get("name"), str):
            yield str(value.get("kind", "")), str(value.get("namespace", namespace)), name
        for each in value.values():
            yield from _named(each, namespace)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _named(each, namespace)
