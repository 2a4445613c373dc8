"""`epp bench`: what of the bench is a command of the product.

Place:   called by epp.main, which knows only this name; the product itself never needs the bench.
Rule:    what is missing is said in one line, before anything heavy is imported.
"""

import importlib.util
import sys
from collections.abc import Sequence

NEEDED = ("gguf", "matplotlib", "numpy", "rich", "xllamacpp")
"""What the extra installs; an Envoy may also be on the PATH."""
NEEDED_TO_SHOW = ("matplotlib", "rich")
USAGE = """\
usage: epp bench COMMAND

commands:
  sim       policies choose among simulated servers, in any workload and fleet (epp bench sim --help)
  run       a workload sent to a real server or gateway, or to two in turn (epp bench run --help)
  compare   two reports of sim or of run: what is different, and how sure (epp bench compare --help)
  failover  servers die, hang, load and lie under load, through a real Envoy (epp bench failover --help)
"""


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    match arguments:
        case ["sim", *rest]:
            return _sim(rest)
        case ["run", *rest]:
            return _run(rest)
        case ["compare", *rest]:
            return _compare(rest)
        case ["failover", *rest]:
            return _failover(rest)
        case [] | ["help" | "-h" | "--help"]:
            sys.stdout.write(USAGE)
            return 0
        case [command, *_]:
            sys.stderr.write(
                f'epp bench: unknown command "{command}": there are sim, run, compare and failover\n'
            )
    return 2


def _sim(arguments: Sequence[str]) -> int:
    if _is_missing(NEEDED_TO_SHOW):
        return 1
    from bench.sim.__main__ import main as sim  # noqa: PLC0415 - after the look for what is missing

    return sim(arguments, "epp bench sim")


def _run(arguments: Sequence[str]) -> int:
    if _is_missing(NEEDED_TO_SHOW):
        return 1
    from bench.run.__main__ import main as run  # noqa: PLC0415 - after the look for what is missing

    return run(arguments, "epp bench run")


def _compare(arguments: Sequence[str]) -> int:
    if _is_missing(NEEDED_TO_SHOW):
        return 1
    from bench.compare import main as compare  # noqa: PLC0415 - after the look for what is missing

    return compare(arguments, "epp bench compare")


def _failover(arguments: Sequence[str]) -> int:
    if _is_missing(NEEDED):
        return 1
    from bench.failover.__main__ import main as failover  # noqa: PLC0415 - after the look for what is missing

    return failover(arguments, "epp bench failover")


def _is_missing(needed: Sequence[str]) -> bool:
    """Whether something is; said then."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"epp bench: not installed: {', '.join(missing)}: pip install 'fleet-epp[bench]'\n")
    return bool(missing)
