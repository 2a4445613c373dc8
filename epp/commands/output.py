"""Standard output, which somebody may close before all is said, as ``head`` does.

Place:   used by the commands that print once; plan and apply go on without a reader (comparing.py).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def printed() -> Iterator[None]:
    """What is written within arrives, or nobody wants it; where it cannot be written, the process ends."""
    try:
        yield
        sys.stdout.flush()
    except OSError as fault:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed once more at the end
        if not isinstance(fault, BrokenPipeError):
            sys.exit(f"epp: standard output: {fault.strerror}")
