import asyncio
import json

import pytest

from bench import pod_events
from bench.pod_events import Turn, Watch


def a_turn(first_pick: float, last_pick: float | None = None, late_picks: int = 0, crowd: int = 0) -> Turn:
    return Turn(
        crowd=crowd, first_pick=first_pick, last_pick=last_pick, late_picks=late_picks, requests=1_000
    )


def line(name: str, *, ready: str | None = None, deleted: bool = False, kind: str = "MODIFIED") -> bytes:
    meta = {"name": name, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    conditions = [] if ready is None else [{"type": "Ready", "status": ready}]
    return json.dumps(
        {"type": kind, "object": {"metadata": meta, "status": {"conditions": conditions}}}
    ).encode()


def test_promises_are_of_the_slowest_and_of_any_late_pick() -> None:
    goals, table = pod_events.tables([a_turn(0.004), a_turn(0.02, 0.001), a_turn(0.15, 0.034, 3, crowd=200)])
    assert [row[1:] for row in goals.rows] == [
        ["≤ 0.1 s", "0.15 s", "**no**"],
        ["≤ 0 picks", "3.00 picks", "**no**"],
    ]
    assert [row[1:] for row in table.rows] == [
        ["2", "12.0", "20.0", "1.0", "0", "2,000"],
        ["1", "150.0", "150.0", "34.0", "3", "1,000"],
    ]
    assert table.rows[1][0] == "3 pods, 200 that change meanwhile"


def test_pods_that_no_request_went_to_afterwards_are_shown_as_such() -> None:
    goals, table = pod_events.tables([a_turn(0.004)])
    assert goals.rows[1][1:] == ["≤ 0 picks", "0.0000 picks", "yes"]
    assert table.rows[0][4] == "-"


def test_nothing_measured_is_nothing_promised() -> None:
    goals, _ = pod_events.tables([])
    assert [row[-1] for row in goals.rows] == ["not measured", "not measured"]


def test_a_watch_tells_events_apart_and_keeps_the_first_of_each_kind() -> None:
    async def listened() -> tuple[float, float, Watch]:
        watch = Watch()
        watch.note(line("pod", kind="ADDED"))
        watch.note(line("pod", ready="False"))
        watch.note(line("pod", ready="True"))
        first = watch.heard["pod", "ready"]
        watch.note(line("pod", ready="True"))
        watch.note(line("pod", ready="True", deleted=True))
        return first, await watch.until("pod", "ready"), watch

    first, kept, watch = asyncio.run(listened())
    assert first == kept
    assert list(watch.heard) == [("pod", "not ready"), ("pod", "ready"), ("pod", "terminating")]


def test_an_event_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_events, "DEADLINE", 0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(Watch().until("pod", "ready"))
