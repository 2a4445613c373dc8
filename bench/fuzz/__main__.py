"""`make fuzz`: runs the fuzzer for a time, keeps what it finds as small tests.

    python -m bench.fuzz [--seconds 3600]

The corpus stays in .build/fuzz, so that the next run goes on where this one ended. A finding is made as small
as it can be and written to tests/fast/findings/, where tests play it from then on. The exit status is 1 when
there was one.
"""

import argparse
import importlib.util
import logging
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.frames import Frame
from bench.fuzz.moves import In, Move, parse, size, text
from bench.fuzz.mutate import items
from bench.fuzz.record import SEEDS
from bench.fuzz.room import Room

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "tests/fast/findings"
WORK = ROOT / ".build/fuzz"
MOST_FINDINGS = 5
MOST_SECONDS = 24 * 3_600
MOST_BYTES = 36_000
"""Of one input as text."""


def main() -> int:
    """The exit status."""
    logging.disable()  # what the driver has to say of such peers
    given = _arguments()
    seconds, work = given.seconds, given.work
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("make fuzz: atheris is not here: it has wheels for Linux on x86-64 only\n")
        return 2
    for folder in ("corpus", "artifacts"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    began, executed, found = time.monotonic(), 0, list[Path]()
    while (left := seconds - (time.monotonic() - began)) >= 1 and len(found) < MOST_FINDINGS:
        inputs, artifact = _run(work, int(left))
        executed += inputs
        if artifact is not None:
            found.append(_keep(artifact))
    took = time.monotonic() - began
    corpus = sum(1 for _ in (work / "corpus").iterdir())
    print(f"{executed:,} inputs in {took:,.0f} s, {corpus:,} in the corpus, {len(found)} findings")
    for path in found:
        print(f"  {path.relative_to(ROOT)}")
    return bool(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz our own driver, in process.")
    parser.add_argument("--seconds", type=int, default=3_600, help="how long (default: 3600)")
    parser.add_argument(
        "--work", type=Path, default=WORK, help=f"corpus and log (default: {WORK.name} in .build)"
    )
    given = parser.parse_args()
    if not 1 <= given.seconds <= MOST_SECONDS:
        parser.error(f"--seconds {given.seconds}: must be 1 to {MOST_SECONDS}")
    return given


def _run(work: Path, seconds: int) -> tuple[int, Path | None]:
    """One libFuzzer, until it finds something or time is over: inputs tried, and the one that did it."""
    artifacts = work / "artifacts"
    before = set(artifacts.iterdir())
    options = {
        "max_total_time": seconds,
        "max_len": MOST_BYTES,
        "timeout": 30,
        "rss_limit_mb": 2_048,
        "print_final_stats": 1,
        "artifact_prefix": f"{artifacts}/",
    }
    command = [
        sys.executable,
        "-m",
        "bench.fuzz.child",
        *(f"-{name}={value}" for name, value in options.items()),
    ]
    with (work / "log").open("ab") as log:
        subprocess.run(
            [*command, str(work / "corpus"), str(SEEDS)], cwd=ROOT, stdout=log, stderr=log, check=False
        )
    executed = re.findall(rb"stat::number_of_executed_units: (\d+)", (work / "log").read_bytes())
    new = sorted(set(artifacts.iterdir()) - before)
    if not executed and not new:
        raise SystemExit(f"the fuzzer did not run: see {work / 'log'}")
    return int(executed[-1]) if executed else 0, new[0] if new else None


def _keep(artifact: Path) -> Path:
    """The input as a test, made small."""
    FINDINGS.mkdir(exist_ok=True)
    moves = parse(artifact.read_bytes())
    why = _fails(moves)
    small = _small(moves, why) if why else moves  # else it takes too long, or too much memory
    path = FINDINGS / f"{artifact.name[:20]}.txt"
    path.write_bytes(text(small))
    print(f"{path.relative_to(ROOT)}: {why or artifact.name.split('-')[0]}, {size(small)} bytes", flush=True)
    return path


def _fails(moves: Sequence[Move]) -> str:
    """What is wrong with this input, without the numbers in it; empty where nothing is."""
    try:
        Room().play(moves)
    except Exception as failure:  # noqa: BLE001 (whatever it is, it is what was found)
        return re.sub(r"\d+", "N", f"{type(failure).__name__}: {failure}")[:100]
    return ""


def _small(moves: Sequence[Move], why: str) -> list[Move]:
    """As few frames as do the same."""
    kept = [In(bytes(item)) if isinstance(item, Frame) else item for item in items(moves)]
    if _fails(kept) != why:  # it needs the reads as they were
        kept = list(moves)
    part = max(len(kept) // 2, 1)
    while part:
        at = 0
        while at < len(kept):
            without = kept[:at] + kept[at + part :]
            if _fails(without) == why:
                kept = without
            else:
                at += part
        part //= 2
    return kept


if __name__ == "__main__":
    sys.exit(main())
