"""A part of CEL, the Common Expression Language: arithmetic and conditions over named figures.

Place:   used by plugins whose parameters hold an expression; read once, worked out many times.
Ignores: where the figures come from, and what the result is for.
Rule:    whatever this part has not is refused when it is read, with a remedy; what only shows when it is
         worked out (a figure that is not there) is a CelError, never a number.
Source:  github.com/google/cel-spec, its language definition.

Numbers (``1``, ``1.5``), ``true``, ``false``, texts, ``a.b``, ``a["b"]``, ``has(a.b)``, ``int(x)``,
``double(x)``, ``+ - * / %``, ``== != < <= > >=``, ``in``, ``! && ||``, ``c ? x : y`` and parentheses. Unlike
in CEL whole numbers and others may meet: ``usage.prompt_tokens * 2``. Why no CEL library: decision 0016.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

MAX_CHARACTERS = 1000
MAX_DEPTH = 40
MAX_INT = 1 << 63

Value: TypeAlias = "bool | int | float | str | Mapping[str, Any]"
Figures: TypeAlias = Mapping[str, Any]


class CelError(ValueError):
    """An expression that cannot be read, or has no value for these figures."""


_Work: TypeAlias = Callable[[Figures], Value]


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that has been read."""

    text: str
    work: _Work

    def value(self, figures: Figures) -> Value:
        """What it comes to. CelError: nothing."""
        return self.work(figures)


def compile_expression(text: str, names: Figures) -> Expression:
    """Read an expression. ``names``: the figures that there may be, with values of their kinds. CelError."""
    if len(text) > MAX_CHARACTERS:
        raise CelError(f"is longer than {MAX_CHARACTERS} characters")
    return Expression(text, _Reader(text, names).whole())


# --- words -------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<text>"(?:[^"\\\n])*"|'(?:[^'\\\n])*')
      | (?P<sign>\|\||&&|[=!<>]=|[-+*/%!<>?:.,()\[\]])
      | (?P<end>\Z)
      | (?P<other>.)
    )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        found = _TOKEN.match(text, at)
        assert found is not None and found.lastgroup is not None  # ``other`` takes anything
        yield _Token(found.lastgroup, found[found.lastgroup])
        if found.lastgroup == "end":
            return
        if found.lastgroup == "other":
            raise CelError(f"cannot be read at {found['other']!r}")
        at = found.end()


# --- grammar -----------------------------------------------------------------------------------------


class _Reader:
    """Reads by descent, one method for each rank of operators, from the loosest to the closest."""

    def __init__(self, text: str, names: Figures) -> None:
        self._tokens = list(_tokens(text))
        self._names = names
        self._at = self._depth = 0

    def whole(self) -> _Work:
        work = self._choice()
        if self._next.kind != "end":
            raise CelError(f"expected an operator or the end, got {self._next.text!r}")
        return work

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1].text

    def _comes(self, *signs: str) -> bool:
        return self._next.kind in ("sign", "name") and self._next.text in signs

    def _expect(self, sign: str) -> None:
        if not self._comes(sign):
            raise CelError(f"expected {sign!r}, got {self._next.text!r}" if self._next.text else _ENDS)
        self._at += 1

    def _choice(self) -> _Work:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CelError("is nested too deeply")
        condition = self._either()
        if self._comes("?"):
            self._take()
            yes = self._choice()
            self._expect(":")
            no = self._choice()
            self._depth -= 1
            return lambda figures: yes(figures) if _truth(condition(figures)) else no(figures)
        self._depth -= 1
        return condition

    def _either(self) -> _Work:
        work = self._both()
        while self._comes("||"):
            self._take()
            work = _logic(work, self._both(), decides=True)
        return work

    def _both(self) -> _Work:
        work = self._relation()
        while self._comes("&&"):
            self._take()
            work = _logic(work, self._relation(), decides=False)
        return work

    def _relation(self) -> _Work:
        return self._left(self._sum, "==", "!=", "<", "<=", ">", ">=", "in")

    def _sum(self) -> _Work:
        return self._left(self._product, "+", "-")

    def _product(self) -> _Work:
        return self._left(self._unary, "*", "/", "%")

    def _left(self, closer: Callable[[], _Work], *signs: str) -> _Work:
        work = closer()
        while self._comes(*signs):
            work = _operation(self._take(), work, closer())
        return work

    def _unary(self) -> _Work:
        if not self._comes("-", "!"):
            return self._member()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CelError("is nested too deeply")
        sign, inner = self._take(), self._unary()
        self._depth -= 1
        if sign == "!":
            return lambda figures: not _truth(inner(figures))
        return lambda figures: _bounded(-_number(inner(figures)))

    def _member(self) -> _Work:
        token = self._next
        match token.kind:
            case "number":
                self._take()
                value = _literal(token.text)
                return lambda _: value
            case "text":
                text = self._take()[1:-1]
                return lambda _: text
            case "name":
                return self._named(self._take())
            case "sign" if token.text == "(":
                self._take()
                inner = self._choice()
                self._expect(")")
                return inner
        raise CelError(f"expected a value, got {token.text!r}" if token.text else _ENDS)

    def _named(self, name: str) -> _Work:
        if name in ("true", "false"):
            return lambda _: name == "true"
        if self._comes("("):
            return self._call(name)
        path = self._path(name)
        return lambda figures: _found(figures, path)

    def _call(self, name: str) -> _Work:
        if name not in ("has", "int", "double"):
            raise CelError(f"there is no function {name}(), there are has(), int() and double()")
        self._take()
        if name == "has":
            path = self._path(self._take())
            self._expect(")")
            if len(path) < 2:
                raise CelError("has() takes a field such as usage.prompt_tokens")
            return lambda figures: _has(figures, path)
        inner = self._choice()
        self._expect(")")
        convert = whole_number if name == "int" else float
        return lambda figures: convert(_number(inner(figures)))

    def _path(self, name: str) -> tuple[str, ...]:
        """A figure by its fields, which are known ones."""
        path, known = [name], cast("Any", self._names)
        while True:
            if not isinstance(known, Mapping) or path[-1] not in known:
                raise CelError(f"there is no {'.'.join(path)}, there are {', '.join(_paths(self._names))}")
            known = known[path[-1]]
            if self._comes("."):
                self._take()
                if self._next.kind != "name":
                    raise CelError(f"expected a field, got {self._next.text!r}")
                path.append(self._take())
            elif self._comes("["):
                self._take()
                if self._next.kind != "text":
                    raise CelError(f"expected a field in quotes, got {self._next.text!r}")
                path.append(self._take()[1:-1])
                self._expect("]")
            else:
                return tuple(path)


_ENDS = "ends where a value is expected"


def _paths(names: Figures, before: str = "") -> Iterator[str]:
    for name, value in names.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


# --- values ------------------------------------------------------------------------------------------


def _literal(text: str) -> float:
    if text.isdigit():
        return int(_bounded(int(text) if len(text) < 20 else MAX_INT))
    return float(text)


def _found(figures: Figures, path: tuple[str, ...]) -> Value:
    value: Any = figures
    for place, name in enumerate(path):
        if not isinstance(value, Mapping) or name not in value:
            raise CelError(f"there is no {'.'.join(path[: place + 1])}")
        value = value[name]
    found: Value = value
    return found


def _has(figures: Figures, path: tuple[str, ...]) -> bool:
    try:
        _found(figures, path)
    except CelError:
        return False
    return True


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise CelError(f"expected true or false, got {value!r}")
    return value


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CelError(f"expected a number, got {value!r}")
    return value


def _bounded(value: float) -> float:
    if isinstance(value, int) and not -MAX_INT <= value < MAX_INT:
        raise CelError("a whole number is too large")
    return value


def whole_number(value: Value) -> int:
    """A number without its fraction; CelError where there is none."""
    value = _number(value)
    if not math.isfinite(value):
        raise CelError(f"{value} is no whole number")
    return int(_bounded(int(value)))


def _logic(one: _Work, other: _Work, *, decides: bool) -> _Work:
    """``||`` and ``&&``: a side that decides alone makes up for one that has no value."""

    def work(figures: Figures) -> bool:
        try:
            first = _truth(one(figures))
        except CelError:
            if _truth(other(figures)) is decides:
                return decides
            raise
        return decides if first is decides else _truth(other(figures))

    return work


def _operation(sign: str, one: _Work, other: _Work) -> _Work:
    if sign in ("==", "!="):
        return lambda figures: _equal(one(figures), other(figures)) is (sign == "==")
    if sign == "in":
        return lambda figures: _contains(one(figures), other(figures))
    operate = _OPERATIONS[sign]
    return lambda figures: operate(_number(one(figures)), _number(other(figures)))


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def _contains(name: Value, names: Value) -> bool:
    if not isinstance(names, Mapping) or not isinstance(name, str):
        raise CelError('in takes a field\'s name and what has fields: "prompt_tokens" in usage')
    return name in names


def _over(one: float, other: float) -> float:
    if isinstance(one, int) and isinstance(other, int):
        if other == 0:
            raise CelError("division by zero")
        quotient = abs(one) // abs(other)
        return _bounded(quotient if (one < 0) is (other < 0) else -quotient)  # towards zero
    if other == 0:
        return math.nan if one == 0 or one != one else math.copysign(math.inf, one) * math.copysign(1, other)  # noqa: PLR0124
    return one / other


def _rest(one: float, other: float) -> int:
    if not (isinstance(one, int) and isinstance(other, int)):
        raise CelError("% takes whole numbers: write int(usage.prompt_tokens) % 64")
    if other == 0:
        raise CelError("division by zero")
    return int(math.copysign(1, one)) * (abs(one) % abs(other))


_OPERATIONS: Mapping[str, Callable[[float, float], Value]] = {
    "+": lambda one, other: _bounded(one + other),
    "-": lambda one, other: _bounded(one - other),
    "*": lambda one, other: _bounded(one * other),
    "/": _over,
    "%": _rest,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}
