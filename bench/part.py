"""What the shorter parts of `make bench` have in common: their options, and where their report goes.

Place:   bench.picks, bench.pools and bench.pod_events, each a program of its own.
Ignores: what is measured.
"""

import argparse
import json
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bench.gateway import Gone, Stuck
from bench.overhead import machine
from bench.report import Table, headed, paste
from bench.rig.process import RigError

T = TypeVar("T")


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """For ``python -m bench.name``; ``about``: its docstring."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about.partition("\n")[0])
    made.add_argument("--out", type=Path, default=Path(".build/bench"), help="folder for JSON and Markdown")
    made.add_argument("--into", type=Path, metavar="PAGE", help="put the tables into this page as well")
    return made


def played(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns; what went wrong in one of its tasks, as if it had none."""
    try:
        return uvloop.run(work)
    except ExceptionGroup as group:
        problem: Exception = group
        while isinstance(problem, ExceptionGroup):
            problem = problem.exceptions[0]
        if isinstance(problem, (Gone, Stuck)):
            raise RigError(f"the picker: {str(problem) or 'it closed the connection'}") from None
        raise problem from None


class Part:
    """One run: begun before anything is measured, published when all is."""

    def __init__(self, name: str, options: argparse.Namespace, flags: str = "") -> None:
        self._name, self._options = name, options
        self._command = f"python -m bench.{name}{flags}"
        self._machine = machine()

    def publish(self, tables: Sequence[Table], data: Any) -> None:
        """To standard output, to files named after the part, and into a page if one is given."""
        text = headed(self._command, f"{datetime.now(UTC):%Y-%m-%d}", self._machine, tables)
        print(text)
        folder: Path = self._options.out
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._name}.md").write_text(text)
        (folder / f"{self._name}.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
        if self._options.into:
            paste(text, self._options.into, self._name)
