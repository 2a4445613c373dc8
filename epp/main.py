"""The ``epp`` command: which command is asked for.

Rule:    no logic; a command's module is imported when it is asked for, so that none waits for another's
         libraries.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import version

from epp.commands.output import printed

USAGE = """\
usage: epp COMMAND

commands:
  serve       choose an endpoint for every request a gateway asks about
  controller  keep a gateway's routes and pools as the models in the cluster want them
  compile     the same once, from files to files
  plan        show what compile would change in the cluster
  apply       change it
  lint        look for what will go wrong in manifests, of files or of the cluster
  bench       measure through a real gateway; needs the extra "bench"
  version     print the version
  help        print this; epp help serve is epp serve --help

epp --flag ... is epp serve --flag ..., so the arguments of the upstream picker work unchanged.
"""

COMMANDS = ("serve", "controller", "compile", "plan", "apply", "lint")
"""Each is a module of epp.commands; bench is a package of its own."""


def main(arguments: Sequence[str]) -> int:
    """One command; returns the exit status."""
    match arguments:
        case [command, *rest] if command in COMMANDS:
            return _run(command, rest)
        case ["bench", *rest]:
            return _bench(rest)
        case ["help", command] if command in COMMANDS:
            return _run(command, ["--help"])
        case [] | ["help" | "-h" | "-help" | "--help"] | ["version", "-h" | "-help" | "--help"]:
            _print(USAGE)
        case ["version" | "--version" | "-version"]:
            _print(f"epp {version('fleet-epp')}\n")
        case ["version" | "--version" | "-version" | "help" as command, argument, *_]:
            sys.stderr.write(f'epp {command}: unexpected argument "{argument}": see epp help\n')
            return 2
        case [flag, *_] if flag.startswith("-"):
            return _run("serve", arguments)
        case [command, *_]:
            known = f"{', '.join(COMMANDS)}, bench, version and help"
            sys.stderr.write(f'epp: unknown command "{command}": there are {known}\n')
            return 2
    return 0


def _print(text: str) -> None:
    with printed():
        sys.stdout.write(text)


def _run(command: str, arguments: Sequence[str]) -> int:
    return int(importlib.import_module(f"epp.commands.{command}").run(arguments))


def _bench(arguments: Sequence[str]) -> int:
    """Found by name when it is asked for: the product never needs it."""
    if importlib.util.find_spec("bench") is None:
        sys.stderr.write("epp bench: not installed: pip install 'fleet-epp[bench]'\n")
        return 1
    return int(importlib.import_module("bench.command").main(arguments))
