"""The ``epp`` command and ``python -m epp``: signals first, then everything else.

Rule:    importing the rest takes a third of a second, in which Ctrl-C is to end the process without
         the traceback of half an import, and a hang-up (epp.runtime.supervise) not at all.
"""

import os
import signal
import sys
from types import FrameType


def run() -> None:
    """The console script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from epp.main import main  # noqa: PLC0415 (see above)

    sys.exit(main(sys.argv[1:]))


def _end(number: int, _frame: FrameType | None) -> None:
    """In the system's way; and with the same status where the system ends nobody, as a container's first."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)


if __name__ == "__main__":
    run()
