"""Durations as Go writes them: ``500ms``, ``1.5s``, ``1m30s``.

Place:   used by epp.config for flags and files, by epp.compiler for what objects say.
"""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"[-+]?(?:0|(?:{_PART})+)", re.ASCII)


def duration(text: str) -> float | None:
    """A Go duration in seconds; None if it is none."""
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text, re.ASCII))
    return -seconds if text.startswith("-") else seconds
