"""`epp bench`: what of the bench is a command of the product.

Place:   called by epp.main, which knows only this name; the product itself never needs the bench.
Rule:    what is missing is said in one line, before anything heavy is imported.
"""

import importlib.util
import sys
from collections.abc import Sequence

NEEDED = ("gguf", "matplotlib", "numpy", "rich", "xllamacpp")
"""What the extra installs; an Envoy may also be on the PATH."""
USAGE = """\
usage: epp bench COMMAND

commands:
  failover  servers die, hang, load and lie under load, through a real Envoy (epp bench failover --help)
"""


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    match arguments:
        case ["failover", *rest]:
            return _failover(rest)
        case [] | ["help" | "-h" | "--help"]:
            sys.stdout.write(USAGE)
            return 0
        case [command, *_]:
            sys.stderr.write(f'epp bench: unknown command "{command}": there is failover\n')
    return 2


def _failover(arguments: Sequence[str]) -> int:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"epp bench: not installed: {', '.join(missing)}: pip install 'fleet-epp[bench]'\n")
        return 1
    from bench.failover.__main__ import main as failover  # noqa: PLC0415 - after the look for what is missing

    return failover(arguments, "epp bench failover")
