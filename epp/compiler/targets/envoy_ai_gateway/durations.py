"""Durations as these resources have them: ``1s500ms``, never ``1.5s``, which their pattern refuses."""

import math

_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def duration(seconds: float) -> str:
    """At least ``seconds``, to the millisecond."""
    left = math.ceil(round(seconds * 1000, 3))
    parts = []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
