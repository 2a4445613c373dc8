"""Reads single series out of a Prometheus text page, without reading the page.

Place:   called by epp.core.engines with the body of a scrape.
Ignores: what a series means, types, help texts, timestamps, every series it was not asked for.
Rule:    nothing in a page raises: a line that is not a sample is skipped. A name matches whole names
         only (``x`` is neither ``x_created`` nor ``x_by_reason``).
Source:  Prometheus text exposition format 0.0.4: the lines of one metric form one group, so that
         reading may stop at the next ``# TYPE``. A byte search finds the group in microseconds,
         where splitting a page of 50 KB into lines costs more than the whole scrape.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

# Possessive quantifiers: no input makes this backtrack.
_QUOTED = rb'"((?:[^"\\\n]++|\\[^\n])*+)"'
_PAIR = rb'[ \t]*+([^\s"=,{}]++)[ \t]*+=[ \t]*+' + _QUOTED + rb"[ \t]*+"
_SAMPLE = re.compile(
    rb"(?:[ \t]*+\{((?:" + _PAIR + rb",?)*+)[ \t]*+\}[ \t]*+|[ \t]++)"  # labels, or at least a blank
    rb"([0-9A-Za-z.+-]++)"  # value
    rb"(?:[ \t]++[+-]?[0-9]++(?:\.[0-9]*+)?)?+[ \t]*+"  # timestamp
    rb"(?:#[^\n]*+)?+\r?(?=\n|\Z)"  # exemplar
)
_NEXT_FAMILY = b"\n# TYPE "
_LABEL = re.compile(_PAIR)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a series. Its labels are read only when someone asks."""

    value: float
    label_text: bytes = b""

    def label(self, name: str) -> str | None:
        """One label's value; None where the sample does not have it."""
        return self.labels.get(name)

    @property
    def labels(self) -> Mapping[str, str]:
        """All labels, unescaped."""
        return _labels(self.label_text)


def samples(page: bytes, name: bytes) -> list[Sample]:
    """All samples of the series called ``name``, in the order of the page; [] where there are none."""
    at = 0 if _names(page, 0, name) else _next(page, name, 0, len(page))
    found: list[Sample] = []
    family_end = -1
    while at >= 0:
        sample = _SAMPLE.match(page, at + len(name))
        value = _number(sample[4]) if sample is not None else None
        if sample is not None and value is not None:
            found.append(Sample(value, sample[1] or b""))
        if family_end < 0:
            family_end = page.find(_NEXT_FAMILY, at)
            family_end = len(page) if family_end < 0 else family_end
        at = _next(page, name, at, family_end)
    return found


def group(page: bytes, name: bytes) -> bytes:
    """The lines that ``samples`` reads, and what stands between them; empty where there are none."""
    at = 0 if _names(page, 0, name) else _next(page, name, 0, len(page))
    if at < 0:
        return b""
    end = page.find(_NEXT_FAMILY, at)
    return page[at:] if end < 0 else page[at:end]


def mentions(page: bytes, prefix: bytes) -> bool:
    """Whether the page has or declares a series whose name begins with ``prefix``."""
    return page.startswith(prefix) or b"\n" + prefix in page or b"# TYPE " + prefix in page


def _next(page: bytes, name: bytes, start: int, end: int) -> int:
    """Where the next line of the series begins, after the line at ``start``; -1 where there is none."""
    needle = b"\n" + name
    at = page.find(needle, start, end)
    while at >= 0 and not _names(page, at + 1, name):
        at = page.find(needle, at + 1, end)
    return at + 1 if at >= 0 else -1


def _names(page: bytes, at: int, name: bytes) -> bool:
    """Whether the line that begins at ``at`` has exactly this name."""
    end = at + len(name)
    return page.startswith(name, at) and page[end : end + 1] in (b"{", b" ", b"\t")


def _number(text: bytes) -> float | None:
    """A sample's value as Prometheus writes it, ``+Inf`` and ``NaN`` included."""
    try:
        return float(text)
    except ValueError:
        return None


@lru_cache(maxsize=512)  # the labels of one server's series are the same at every scrape
def _labels(text: bytes) -> Mapping[str, str]:
    return MappingProxyType(
        {name.decode(errors="replace"): _unescape(value) for name, value in _LABEL.findall(text)}
    )


def _unescape(value: bytes) -> str:
    text = value.decode(errors="replace")
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[0]), text)
