"""Which port of the picker's Service is whose: nothing else tells a picker which pool is asked for.

Rule:    a pool keeps the port that it has. A new one gets that which its name leads to, or the next that is
         free; so a file gives the same ports on every machine.
"""

import zlib
from collections.abc import Iterable, Mapping

FIRST, COUNT = 9100, 10_000
"""Each pool's port is one of so many from there on."""


def assign(pools: Iterable[str], taken: Mapping[str, int], *, first: int, count: int) -> dict[str, int]:
    """Ports by pool, ``count`` of them from ``first`` on. ``taken``: those of the pools that are there
    already.

    ValueError when there are more pools than ports.
    """
    names = sorted(set(pools))
    if len({*names, *taken}) > count:
        raise ValueError(f"{len({*names, *taken})} pools and {count} ports")
    ports = {name: taken[name] for name in names if name in taken}
    busy = {*taken.values()}
    for name in names:
        if name not in ports:
            step = zlib.crc32(name.encode()) % count
            while first + step in busy:
                step = (step + 1) % count
            ports[name] = first + step
            busy.add(first + step)
    return ports
