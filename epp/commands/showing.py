"""Findings for people.

Place:   used by compile, plan, apply and lint.
"""

import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from epp.compiler.findings import Finding, Severity

_COLOURS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "36"}
_SHORTEST, _LONGEST = 60, 140
"""Characters of a line; a terminal may be narrower or wider than one reads well."""
_MARGIN = 8


def is_coloured(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a person looks at it, who has not asked for plain text (https://no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def show(findings: Sequence[Finding], stream: TextIO, *, coloured: bool | None = None) -> None:
    """A paragraph each: severity, place, object, what will happen, what to do.

    ``coloured``: None: where a person looks.
    """
    paint = _painted if (is_coloured(stream) if coloured is None else coloured) else _plain
    width = min(max(shutil.get_terminal_size((_LONGEST, 0)).columns, _SHORTEST), _LONGEST)
    widest = max((len(one.origin.place) for one in findings), default=0)
    for one in findings:
        stream.writelines(_lines(one, widest, width, paint))


def count(findings: Sequence[Finding]) -> str:
    """``2 errors, 1 warning``; empty: there are none."""
    numbers = [(sum(one.severity is severity for one in findings), severity) for severity in Severity]
    words = [
        f"{number} {severity.value}{'s' if number > 1 and severity is not Severity.INFO else ''}"
        for number, severity in numbers
        if number
    ]
    return ", ".join(words)


def _lines(finding: Finding, widest: int, width: int, paint: Callable[[str, str], str]) -> Iterator[str]:
    origin = finding.origin
    subject = f"{origin.object}: {origin.field}" if origin.field else origin.object
    place = f"{origin.place:<{widest}}  " if widest else ""
    severity = paint(_COLOURS[finding.severity], f"{finding.severity.value:<{_MARGIN}}")
    yield f"{severity}{place}{paint('1', subject)} [{finding.code}]\n"
    for text in (finding.message, finding.fix and f"-> {finding.fix}"):
        for line in textwrap.wrap(text, width - _MARGIN, break_long_words=False, break_on_hyphens=False):
            yield f"{' ' * _MARGIN}{line}\n"


def _painted(colour: str, text: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _plain(colour: str, text: str) -> str:  # noqa: ARG001 (the same as _painted)
    return text
