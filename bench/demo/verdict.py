"""What the demo says at its end: figures for scripts, and what should have held but did not.

Rule:    pure; every promise that was broken is one sentence for a person.
"""

from collections.abc import Iterator
from typing import Any

from bench.demo.board import FAULT_SECONDS, Board, Fault, Phase, stayed

DEAD_PICK_LIMIT_MS = 1_000
"""A server that died must not be picked any more after this."""


def figures(board: Board) -> dict[str, Any]:
    """The demo's JSON. ``endpoints``: good answers of each server over all phases."""
    samples = board.samples
    fault = board.fault
    assert fault is not None
    during = board.phase("fault")
    return {
        "requests": len(samples),
        "failures": sum(not sample.ok for sample in samples),
        "picker": _phase(board, "picker"),
        "round_robin": _phase(board, "round_robin"),
        "failover": {
            "last_request_to_dead_ms": fault.last_sent_to_dead_ms(during.samples),
            "failures": sum(fault.covers(failure) for failure in during.failures),
            "requests": len(during.samples),
            "killed": fault.name,
            "requests_to_dead": len(fault.sent_while_dead(during.samples)),
            "seen_down_ms": _after(fault.killed, fault.seen_down),
            "phases": [phase for phase, _ in fault.phases],
            "back_after_load_ms": None if fault.loaded is None else _after(fault.loaded, fault.returned),
            "endpoints": board.counts(during.samples),
        },
        "endpoints": board.counts(samples),
        "requests_per_second": round(board.rate, 2),
    }


def _phase(board: Board, name: str) -> dict[str, Any]:
    phase = board.phase(name)
    ttft = phase.ttft()
    milliseconds = {} if ttft is None else ttft.milliseconds()
    stay, later = stayed(phase.samples)
    return {
        "ttft_ms": {key: milliseconds.get(key) for key in ("p50", "p95")},
        "requests": len(phase.samples),
        "failures": len(phase.failures),
        "stayed": round(stay / later, 3) if later else None,
        "endpoints": board.counts(phase.samples),
    }


def _after(begin: float, end: float | None) -> float | None:
    return None if end is None else round((end - begin) * 1e3, 1)


def findings(board: Board) -> list[str]:
    """What the figures say, in sentences; not always what one would like them to say."""
    return [*_comparison(board.phase("round_robin"), board.phase("picker")), *_story(board)]


def _comparison(robin: Phase, picker: Phase) -> Iterator[str]:
    before, after = robin.ttft(), picker.ttft()
    if before is None or after is None:
        return
    for name in ("p50", "p95"):
        ratio = getattr(after, name) / getattr(before, name)
        same = f"TTFT {name} on the same load"
        if ratio < 1:
            yield f"{same}: {1 - ratio:.0%} lower with the picker"
        else:
            yield f"{same}: not lower with the picker this time ({ratio - 1:.0%} higher)"


def _story(board: Board) -> Iterator[str]:
    fault = board.fault
    if fault is None:
        return
    samples = board.phase("fault").samples
    failed = [sample for sample in samples if not sample.ok and fault.covers(sample)]
    under_way = sum(fault.found_under_way(sample) for sample in failed)
    later = len(failed) - under_way
    lost = f"{_requests(under_way)} under way failed" + (f" and {later} sent after the kill" if later else "")
    late, last = len(fault.sent_while_dead(samples)), fault.last_sent_to_dead_ms(samples)
    sent = f"{_requests(late)} after the kill" + (f", the last {last:.0f} ms after it" if late else "")
    yield f"{fault.name} was killed: {lost}; the picker sent it {sent}"
    if fault.started_again is not None and fault.returned is not None:
        yield f"{fault.name} answered again {fault.returned - fault.started_again:.1f} s after its new start"


def broken_promises(board: Board) -> list[str]:
    """What must hold and did not; empty when all is well."""
    return [*_steady(board), *_failover(board)]


def _steady(board: Board) -> Iterator[str]:
    for phase in (board.phase("round_robin"), board.phase("picker")):
        if phase.failures:
            yield f"{_failures(phase)} with all servers alive ({phase.title})"
        if not any(sample.ok for sample in phase.samples):
            yield f"nothing was answered ({phase.title})"
    picked = [*board.phase("picker").samples, *board.phase("fault").samples]
    idle = [name for name, count in board.counts(picked).items() if not count]
    if idle:
        yield f"the picker never chose {', '.join(idle)}"


def _requests(number: int) -> str:
    return f"{number or 'no'} {'request' if number == 1 else 'requests'}"


def _failures(phase: Phase) -> str:
    kinds = sorted({str(sample.error) for sample in phase.failures})
    return f"{len(phase.failures)} of {len(phase.samples)} requests failed: {', '.join(kinds)}"


def _failover(board: Board) -> Iterator[str]:
    fault, phase = board.fault, board.phase("fault")
    if fault is None:
        yield "no server was killed"
        return
    unexplained = [failure for failure in phase.failures if not fault.covers(failure)]
    if unexplained:
        first, were = unexplained[0], "was" if len(unexplained) == 1 else "were"
        sent = first.due if first.sent is None else first.sent
        yield (
            f"{_requests(len(unexplained))} failed that {were} not sent within {FAULT_SECONDS:g} s of the "
            f"kill; the first ({first.key}: {first.error}) {sent - fault.killed:+.1f} s from it"
        )
    last = fault.last_sent_to_dead_ms(phase.samples)
    if last > DEAD_PICK_LIMIT_MS:
        yield f"{fault.name} was still picked {last:.0f} ms after its death (limit {DEAD_PICK_LIMIT_MS})"
    yield from _return(fault)


def _return(fault: Fault) -> Iterator[str]:
    if fault.seen_down is None:
        yield f"the picker never said that {fault.name} was down"
    if fault.loaded is None:
        yield f"{fault.name} did not start again"
    elif fault.returned is None:
        yield f"{fault.name} came back but got no request"
