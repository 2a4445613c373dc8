"""``python -m bench.demo [--seconds 30] [--json FILE]``: see docs/demo.md.

Exit status: 0 all that must hold held; 1 something did not, or a part is missing; 2 wrong arguments;
130 interrupted. On every way out all processes are stopped.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.demo.interrupt import run, terminate_is_interrupt

NEEDED = ("grpc", "gguf", "numpy", "rich", "xllamacpp", "yaml")
SHORTEST, LONGEST = 9.0, 600.0


def main() -> int:
    arguments = _arguments()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(
            f"not installed: {', '.join(missing)}: run `make setup`, or pip install 'fleet-epp[bench]'"
        )
    terminate_is_interrupt()
    logs = Path(tempfile.mkdtemp(prefix="fleet-epp-demo-"))
    status = 1
    try:
        status = _run(arguments.seconds, arguments.json, logs)
    except KeyboardInterrupt:
        print("interrupted: everything is stopped", file=sys.stderr)
        status = 130
    finally:
        if status == 1:
            print(f"demo: the logs are in {logs}", file=sys.stderr)
        else:
            shutil.rmtree(logs, ignore_errors=True)
    return status


def _run(seconds: float, report: Path | None, logs: Path) -> int:
    # After the look for what is missing, which says more than an ImportError.
    from rich.console import Console  # noqa: PLC0415

    from bench.demo.board import Board  # noqa: PLC0415
    from bench.demo.play import play, set_up  # noqa: PLC0415
    from bench.demo.verdict import broken_promises, figures  # noqa: PLC0415
    from bench.demo.view import View  # noqa: PLC0415
    from bench.rig.process import RigError  # noqa: PLC0415

    try:
        with ExitStack() as stack:
            stage = set_up(stack, logs)
            board = Board({server.name: server.address for server in stage.servers})
            view = View(board, Console())
            view.say("running: 3 llama.cpp servers, the picker, Envoy")

            async def show() -> None:
                async with view.live():
                    await play(stage, board, view, seconds)

            run(show())
    except (RigError, BaseExceptionGroup) as problem:
        cause = _first(problem)
        if not isinstance(cause, RigError):
            raise
        return _fail(_one_line(str(cause)))
    view.end()
    if report is not None:
        report.write_text(json.dumps(figures(board), indent=1) + "\n")
    broken = broken_promises(board)
    for sentence in broken:
        _fail(sentence)
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo",
        usage="make demo [SECONDS=30] [JSON=out.json]",
        description="The picker at work, live. Without make: python -m bench.demo --seconds 30",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=30.0,
        help=f"of load, in three equal parts: {SHORTEST:g} to {LONGEST:g} (30)",
    )
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a number from {SHORTEST:g} to {LONGEST:g}, for example make demo SECONDS=20"
        )
    return seconds


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: must be a file in a directory that exists")
    return path


def _first(problem: BaseException) -> BaseException:
    """What went wrong, out of the task groups it went through."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


def _one_line(text: str) -> str:
    """A rig's message: what happened and, where it ends with a log, the log's last word."""
    first, *log = text.splitlines()
    return f"{first} {log[-1].strip()}" if log else first


def _fail(sentence: str) -> int:
    print(f"demo: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
