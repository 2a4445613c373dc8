"""What the value of a header must be: a text, a text in whatever case, or a glob; and what two of them share.

Place:   inputs/ asks whether a glob can match at all, order.py compares rules, targets/ write matchers down.
Rule:    globs are Go's path.Match: ``*`` and ``?`` do not cross a slash, and what Go calls bad matches
         nothing. Regular expressions are of the few signs that RE2, Rust's regex, JavaScript and Python read
         alike; those of a Matcher are anchored: some gateways search where others compare the whole value.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

EXACT, ANY_CASE, GLOB = "exact", "any case", "glob"
SPELLED, ANY = "spelled", "any"
"""What EXACT accepts, and whatever there is; both are written as a regular expression, since some gateways
try Exact values first."""

MOST = 64
"""Globs that two can share before they are refused; two with three stars each share 20."""

_ANY, _STAR = "?", "*"
_SIGNS = "*?[\\"
_SIGN = re.compile(r"[*?\[\\]")


class BadPattern(ValueError):
    """It matches nothing; says why."""


def escape(name: str) -> str:
    """The glob that only ``name`` matches."""
    return re.sub(r"([*?\[\\])", r"\\\1", name)


def literal(glob: str) -> str | None:
    """The only name that it matches; None: there may be several."""
    if _SIGN.search(glob) is None:
        return glob
    bare = re.sub(r"\\(.)", "", glob, flags=re.DOTALL)
    if any(sign in bare for sign in _SIGNS):
        return None
    return re.sub(r"\\(.)", r"\1", glob, flags=re.DOTALL)


def regex(glob: str) -> str:
    """A regular expression for whole names. BadPattern when it can match none."""
    if not glob:
        raise BadPattern("it is empty, and only a model that has a name is looked at")
    return "".join(words for _, words in _parts(glob))


def matches(glob: str, name: str) -> bool:
    """Whether it means ``name``."""
    try:
        return re.fullmatch(regex(glob), name) is not None
    except BadPattern:
        return False


def _parts(glob: str) -> list[tuple[str, str]]:
    """Its signs, each with its regular expression."""
    found, rest = [], glob
    while rest:
        words, after = _next(rest)
        found.append((rest[: len(rest) - len(after)], words))
        rest = after
    return found


def _next(rest: str) -> tuple[str, str]:
    """One sign as a regular expression, and what comes after it."""
    sign, after = rest[0], rest[1:]
    if sign == "*":
        return "[^/]*", after.lstrip("*")
    if sign == "?":
        return "[^/]", after
    if sign == "[":
        return _class(after)
    if sign == "\\":
        if not after:
            raise BadPattern("it ends in a backslash")
        sign, after = after[0], after[1:]
    return _plain(sign), after


def _class(rest: str) -> tuple[str, str]:
    """``[a-z]``, of which ``rest`` is what follows the bracket. Unlike ``*`` it can match a slash."""
    negated, rest = rest.startswith("^"), rest.removeprefix("^")
    ranges: list[tuple[str, str]] = []
    while not (ranges and rest.startswith("]")):
        low, rest = _member(rest)
        high = low
        if rest.startswith("-"):
            high, rest = _member(rest[1:])
        ranges.append((low, high))
    rest = rest[1:]
    able = [_range(low, high) for low, high in ranges if low <= high]
    if able:
        return f"[{'^' if negated else ''}{''.join(able)}]", rest
    if negated:
        return "[\\s\\S]", rest
    raise BadPattern("a range in it ends before it begins")


def _range(low: str, high: str) -> str:
    return _plain(low) if low == high else f"{_plain(low)}-{_plain(high)}"


def _member(rest: str) -> tuple[str, str]:
    if not rest or rest[0] in "-]":
        raise BadPattern("a bracket in it has no end, or a range in it no begin or end")
    if rest[0] == "\\":
        rest = rest[1:]
    if len(rest) < 2:
        raise BadPattern("a bracket in it has no end")
    return rest[0], rest[1:]


def _plain(sign: str) -> str:
    """One character; of ASCII all but letters and digits get a backslash, which every syntax allows."""
    return sign if sign.isalnum() or not sign.isascii() or sign in "_/" else f"\\{sign}"


@dataclass(frozen=True, slots=True, order=True)
class Matcher:
    """``value`` in the words of ``kind``."""

    value: str
    kind: str = EXACT

    def accepts(self, text: str) -> bool:
        """Whether a header may have this value."""
        if self.is_text:
            return text == self.value
        return self.kind == ANY or _compiled(self).fullmatch(text) is not None

    @property
    def is_text(self) -> bool:
        """Whether it accepts one text only."""
        return self.kind in {EXACT, SPELLED}

    @property
    def regex(self) -> str:
        """For whoever has nothing else for it."""
        if self.kind == ANY:
            return self.value
        if self.kind == GLOB:
            return f"^{regex(self.value)}$"
        return f"^{''.join(map(_in_any_case if self.kind == ANY_CASE else _plain, self.value))}$"

    def meet(self, other: "Matcher") -> tuple["Matcher", ...]:
        """What both accept, as matchers that together accept it. ValueError: too much to write down."""
        if self == other or other.kind == ANY:
            return (self,)
        if self.kind == ANY:
            return (other,)
        for one, another in ((self, other), (other, self)):
            if another.kind == EXACT or (another.is_text and one.kind != EXACT):
                return (another,) if one.accepts(another.value) else ()
        if self.kind == other.kind == ANY_CASE:
            return (other,) if self.value.lower() == other.value.lower() else ()
        if self.kind == other.kind == GLOB:
            found = _shared(_signs(self.value), _signs(other.value))
            return tuple(sorted({of_model("".join(signs)) for signs in found}))
        raise ValueError(f"what {self.value!r} and {other.value!r} have in common cannot be written down")

    def covers(self, other: "Matcher") -> bool:
        """Whatever ``other`` accepts, this does; False where that is not certain."""
        if other.is_text:
            return self.accepts(other.value)
        if self.is_text or other.kind == ANY:
            return self.kind == ANY
        try:
            return self.meet(other) == (other,)
        except ValueError:
            return False


ANYTHING = Matcher(".*", ANY)
"""A value, whichever."""


def of_model(pattern: str) -> Matcher:
    """A name, or a glob in its shortest form."""
    name = literal(pattern)
    return Matcher("".join(_signs(pattern)), GLOB) if name is None else Matcher(name)


def of_value(value: str, *, ignore_case: bool = False) -> Matcher:
    """Of any other header."""
    return Matcher(value, ANY_CASE if ignore_case and value.lower() != value.upper() else EXACT)


@lru_cache(maxsize=4096)
def _compiled(matcher: Matcher) -> re.Pattern[str]:
    return re.compile(matcher.regex)


def _in_any_case(sign: str) -> str:
    if sign.isascii() and sign.isalpha():
        return f"[{sign.upper()}{sign.lower()}]"
    return _plain(sign)


@lru_cache(maxsize=4096)
def _signs(glob: str) -> tuple[str, ...]:
    """``*``, ``?``, ``[…]``, a character, or a backslash and a character where it has a meaning."""
    return tuple(_shortest(sign) for sign, _ in _parts(glob))


def _shortest(sign: str) -> str:
    if sign[0] == "*":
        return _STAR
    return escape(sign[1]) if sign[0] == "\\" else sign


@lru_cache(maxsize=4096)
def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """Globs that together accept what both do."""
    if not one and not other:
        return frozenset([()])
    if one[:1] == other[:1] == (_STAR,):
        found = {_starred(rest) for rest in _shared(one[1:], other) | _shared(one, other[1:])}
    elif one[:1] == (_STAR,):
        found = {*_shared(one[1:], other), *_eaten(one, other)}
    elif other[:1] == (_STAR,):
        found = {*_shared(one, other[1:]), *_eaten(other, one)}
    elif not one or not other:
        return frozenset()
    else:
        both = _same(one[0], other[0])
        found = {(both, *rest) for rest in _shared(one[1:], other[1:])} if both else set()
    if len(found) > MOST:
        raise ValueError(f"{''.join(one)!r} and {''.join(other)!r} have too much in common")
    return frozenset(found)


def _starred(rest: tuple[str, ...]) -> tuple[str, ...]:
    return rest if rest[:1] == (_STAR,) else (_STAR, *rest)


def _eaten(starred: tuple[str, ...], other: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The star takes the first sign of ``other``."""
    if not other:
        return set()
    taken = _same(_ANY, other[0])
    return {(taken, *rest) for rest in _shared(starred, other[1:])} if taken else set()


def _same(one: str, other: str) -> str:
    """What one sign and another accept; empty: nothing."""
    if one == other:
        return one
    narrow, wide = (one, other) if _is_character(one) else (other, one)
    if _is_character(narrow):
        return narrow if matches(wide, narrow[-1]) else ""
    if _ANY in (one, other):
        wanted = other if one == _ANY else one
        if not matches(wanted, "/"):
            return wanted
    raise ValueError(f"what {one!r} and {other!r} have in common cannot be written down")


def _is_character(sign: str) -> bool:
    return sign not in (_STAR, _ANY) and not (sign[0] == "[" and len(sign) > 1)
