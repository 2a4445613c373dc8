"""What the value of a header must be: a text, a text in whatever case, or a glob; and what two of them share.

Rule:    globs are Go's path.Match: ``*`` and ``?`` stand for no ``/``, ``[a-z]`` and ``[^a-z]`` for one character,
         ``\\`` takes the next as it is. Regular expressions are of the few signs that RE2, Rust's regex and
         JavaScript read alike, and anchored, since some gateways search where others compare.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

EXACT, ANY_CASE, GLOB = "exact", "any case", "glob"

MOST = 64
"""Globs that two can share before they are refused; two with three stars each share 20."""

_ANY, _STAR = "?", "*"
Token: TypeAlias = str
"""One sign of a glob: ``*``, ``?``, ``[…]``, or a character, with a backslash where it has a meaning."""
_SIGNS = "*?[\\"


@dataclass(frozen=True, slots=True, order=True)
class Matcher:
    """``value`` in the words of ``kind``."""

    value: str
    kind: str = EXACT

    def accepts(self, text: str) -> bool:
        if self.kind == EXACT:
            return text == self.value
        return _compiled(self).fullmatch(text) is not None

    @property
    def regex(self) -> str:
        if self.kind == GLOB:
            return f"^{''.join(map(_regex, tokens(self.value)))}$"
        return f"^{''.join(_in_any_case(sign) if self.kind == ANY_CASE else _plain(sign) for sign in self.value)}$"

    def meet(self, other: "Matcher") -> tuple["Matcher", ...]:
        """What both accept, as matchers that together accept it. ValueError: too much to write down."""
        if self == other:
            return (self,)
        one, another = (self, other) if other.kind == EXACT else (other, self)
        if another.kind == EXACT:
            return (another,) if one.accepts(another.value) else ()
        if one.kind == another.kind == ANY_CASE:
            return (one,) if one.value.lower() == another.value.lower() else ()
        if one.kind == another.kind == GLOB:
            return tuple(sorted(_matcher(found) for found in _shared(tokens(self.value), tokens(other.value))))
        raise ValueError(f"what {self.value!r} and {other.value!r} have in common cannot be written down")

    def covers(self, other: "Matcher") -> bool:
        """Whatever ``other`` accepts, this does; False where that is not certain."""
        if other.kind == EXACT:
            return self.accepts(other.value)
        if self.kind == EXACT:
            return False
        try:
            return self.meet(other) == (other,)
        except ValueError:
            return False


@lru_cache(maxsize=4096)
def _compiled(matcher: Matcher) -> re.Pattern[str]:
    return re.compile(matcher.regex)


def tokens(glob: str) -> tuple[Token, ...]:
    """ValueError: Go would not read it."""
    found: list[Token] = []
    at = 0
    while at < len(glob):
        length = _length(glob, at)
        token = glob[at : at + length]
        if token != _STAR or found[-1:] != [_STAR]:
            found.append(token[1] if token[0] == "\\" and token[1] not in _SIGNS else token)
        at += length
    return tuple(found)


def _length(glob: str, at: int) -> int:
    if glob[at] == "\\":
        if at + 1 == len(glob):
            raise ValueError(f"{glob!r} ends with a backslash")
        return 2
    if glob[at] != "[":
        return 1
    return _class_end(glob, at) - at


_SET = re.compile(r"\[\^?(?:(?:\\.|[^\\\]-])(?:-(?:\\.|[^\\\]-]))?)+\]", re.DOTALL)


def _class_end(glob: str, at: int) -> int:
    found = _SET.match(glob, at)
    if not found:
        raise ValueError(f"{glob!r} has a [ that is no set of characters")
    return found.end()


def _regex(token: Token) -> str:
    if token == _STAR:
        return "[^/]*"
    if token == _ANY:
        return "[^/]"
    if token[0] == "[" and len(token) > 1:
        return token.replace("&&", "&\\&").replace("[", "\\[")[1:] if "[" in token[1:] else token
    return _plain(token[-1])


def _plain(sign: str) -> str:
    return f"\\{sign}" if sign in r"\.+*?()|[]{}^$" else sign


def _in_any_case(sign: str) -> str:
    if sign.lower() != sign.upper() and sign.isascii():
        return f"[{sign.upper()}{sign.lower()}]"
    return _plain(sign)


def _matcher(found: tuple[Token, ...]) -> Matcher:
    if any(token in (_STAR, _ANY) or (token[0] == "[" and len(token) > 1) for token in found):
        return Matcher("".join(found), GLOB)
    return Matcher("".join(token[-1] for token in found))


@lru_cache(maxsize=4096)
def _shared(one: tuple[Token, ...], other: tuple[Token, ...]) -> frozenset[tuple[Token, ...]]:
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
        raise ValueError(f"{''.join(one)!r} and {''.join(other)!r} have too much in common to be written down")
    return frozenset(found)


def _starred(rest: tuple[Token, ...]) -> tuple[Token, ...]:
    return rest if rest[:1] == (_STAR,) else (_STAR, *rest)


def _eaten(starred: tuple[Token, ...], other: tuple[Token, ...]) -> set[tuple[Token, ...]]:
    """The star takes the first sign of ``other``."""
    if not other:
        return set()
    taken = _same(_ANY, other[0])
    return {(taken, *rest) for rest in _shared(starred, other[1:])} if taken else set()


def _same(one: Token, other: Token) -> Token:
    """What one sign and another accept; empty: nothing."""
    if one == other:
        return one
    narrow, wide = (one, other) if _is_character(one) else (other, one)
    if _is_character(narrow):
        return narrow if re.fullmatch(_regex(wide), narrow[-1]) else ""
    if _ANY in (one, other):
        wanted = other if one == _ANY else one
        if re.fullmatch(_regex(wanted), "/"):
            raise ValueError(f"what {wanted!r} and '?' have in common cannot be written down")
        return wanted
    raise ValueError(f"what {one!r} and {other!r} have in common cannot be written down")


def _is_character(token: Token) -> bool:
    return token not in (_STAR, _ANY) and not (token[0] == "[" and len(token) > 1)
