"""What calls came to, so that a compilation need not do again what the one before it has done.

Place:   handed down from compile.py as ``call``; the controller keeps one from compilation to compilation,
         and one each for differences, statuses and what it watches.
Ignores: what is called.
Rule:    a call is known by its function and by which objects it is given, not by what these are like: it is
         for functions that look at nothing else, of inputs and with results that nobody changes. What the
         latest compilation has not asked for is forgotten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

Result = TypeVar("Result")


class Call(Protocol):
    """Calls a function, or knows already what comes of it."""

    def __call__(self, function: Callable[..., Result], /, *inputs: object) -> Result: ...


def plainly(function: Callable[..., Result], /, *inputs: object) -> Result:
    """Without any memory."""
    return function(*inputs)


@dataclass(slots=True)
class _Known:
    inputs: tuple[object, ...]
    result: object
    asked: int
    """In which compilation last."""


class Memory:
    """``with`` it for each compilation: ``with memory as call``. ``size``: calls that are known."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Known] = {}
        self._turn = self._asked = 0

    @property
    def size(self) -> int:
        return len(self._known)

    def __call__(self, function: Callable[..., Result], /, *inputs: object) -> Result:
        # texts and numbers by what they are; an id of all else, which is kept, so that the id stays its own
        key = (function, *[_itself(one) if type(one) in _PLAIN else id(one) for one in inputs])
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(inputs, function(*inputs), 0)
        if known.asked != self._turn:
            known.asked = self._turn
            self._asked += 1
        return known.result  # type: ignore[return-value]

    def __enter__(self) -> Self:
        self._turn, self._asked = self._turn + 1, 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asked != len(self._known):
            self._known = {key: one for key, one in self._known.items() if one.asked == self._turn}


_PLAIN = frozenset({str, int})


def _itself(one: object) -> object:
    """No number is an id."""
    return one if isinstance(one, str) else (one,)
