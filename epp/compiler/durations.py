"""Durations as gateways' resources have them: ``1s500ms``, never ``1.5s``, which their patterns refuse.

Source:  Gateway API, Duration: up to four numbers of at most five digits, each with h, m, s or ms.
"""

import math

_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_MOST = 99_999


def duration(seconds: float, *, plain: bool = False) -> str:
    """At least ``seconds``, to the millisecond. ``plain``: 242s, not 4m2s, as long as its digits do."""
    left = math.ceil(round(seconds * 1000, 3))
    parts = []
    for unit, length in _UNITS[2:] if plain and seconds <= _MOST else _UNITS:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
