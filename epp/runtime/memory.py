"""How the C library keeps memory that is freed.

Place:   told by epp.commands.serve before anything is served.
Ignores: other C libraries than glibc: they have no such setting.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 16 << 20
_OWN_MAPPING_BYTES = 4 << 20


def keep_what_is_freed() -> None:
    """Keep up to 16 MB of freed memory instead of giving it back to the system with every request.

    By default glibc gives back what is free at the end of its heap from 256 KB on, which a body of 220 KB
    fills and leaves again: fresh pages for each. Behind Envoy, one request after the other, keeping them
    saves 0.2 of 1.3 ms of CPU a request; with 100 at once there is always one that keeps the heap from
    shrinking. What is larger than 4 MB still has a mapping of its own, which goes with it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
