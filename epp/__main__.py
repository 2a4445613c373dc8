"""The ``epp`` command and ``python -m epp``: signals first, then everything else.

Rule:    importing the rest takes a third of a second, in which Ctrl-C is to end the process without
         the traceback of half an import, and a hang-up (epp.runtime.supervise) not at all. So this file
         imports next to nothing; Python's own start, of some 15 ms, is before it.
"""

import _signal as signal  # type: ignore[import-not-found]  # without the enums of signal, which cost 5 ms
import os
import sys


def run() -> None:
    """The console script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us, as with >&-
            nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (as long as we live)
            setattr(sys, name, nothing)
    from epp.commands.output import printed  # noqa: PLC0415 (see above)
    from epp.main import main  # noqa: PLC0415

    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        with printed():
            pass  # what is still to be flushed, as the text of --help


def _end(number: int, _frame: object) -> None:
    """In the system's way; and with the same status where the system ends nobody, as a container's first."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)


if __name__ == "__main__":
    run()
