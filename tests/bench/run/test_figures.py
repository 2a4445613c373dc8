import math

import pytest

from bench.load import Sample
from bench.run.figures import NOBODY, as_rows, details, is_late, of_part, servers, slices, whole
from bench.run.play import Request, Stretch
from bench.sim.statistics import Objective
from tests.bench.run.chat import event, stretch, usage

OBJECTIVE = Objective(ttft=0.5, inter_token=0.1)
URL = "http://127.0.0.1:1"


def request(
    due: float,
    *,
    ttft: float | None = 0.1,
    e2e: float = 0.3,
    tokens: int = 3,
    server: str | None = "a",
    error: str | None = None,
    late: float = 0.0,
    is_over: bool = True,
) -> Request:
    sample = Sample(
        due=due,
        sent=due + late,
        first_token=None if ttft is None else due + ttft,
        ended=due + e2e if is_over else 0.0,
        status=200,
        served_by=server,
        error=error,
    )
    made = Request(session=1, turn=1, prompt_tokens=10, late=late, sample=sample, is_over=is_over)
    for _ in range(tokens):
        made.answer.feed(event("x"))
    return made


def played(*requests: Request, began: float = 100.0, seconds: float = 10.0) -> Stretch:
    made = stretch(URL, [], seconds=seconds)
    made.began, made.ended, made.requests = began, began + seconds + 1, list(requests)
    return made


def test_a_run_is_counted_as_a_simulation_is() -> None:
    found = played(
        request(101, ttft=0.2, e2e=0.36),
        request(102, ttft=0.6, e2e=0.76),
        request(103, error="answer cut off"),
        request(104, ttft=None, e2e=0.7, is_over=False),
    )
    figures = whole(slices(found, 1, 0.0), OBJECTIVE, servers(found.requests))
    assert figures is not None
    assert (figures.requests, figures.failed, figures.unfinished) == (4, 1, 1)
    assert (figures.ttft.p50, figures.ttft.p99) == pytest.approx(
        (0.6, 7.0)
    )  # the last has waited until the end
    assert figures.goodput == 0.25
    assert figures.output_rate == pytest.approx(6 / 10)
    assert figures.inter_token.p50 == pytest.approx(0.08)
    assert math.isnan(figures.cached)


def test_what_is_cached_is_what_engines_say() -> None:
    one, other = request(101), request(102)
    one.answer.feed(usage(100, 3, 60))
    other.answer.feed(usage(300, 3, 20))
    found = played(one, other)
    figures = whole(slices(found, 1, 0.0), OBJECTIVE, ["a"])
    assert figures is not None and figures.cached == 0.2
    assert details(slices(found, 1, 0.0)).servers[0].cached == 0.2


def test_the_warm_up_is_not_counted_and_parts_are_equal() -> None:
    found = played(*(request(100.0 + number) for number in range(10)))
    parts = slices(found, 4, 2.0)
    assert [(part.begin, part.end) for part in parts] == [(102, 104), (104, 106), (106, 108), (108, 110)]
    counted = [of_part(part, OBJECTIVE, ["a"]) for part in parts]
    assert [one.requests for one in counted if one] == [2, 2, 2, 2]


def test_a_stretch_that_was_broken_off_in_its_warm_up_has_no_parts() -> None:
    found = played(request(100))
    found.ended = 101.0
    assert slices(found, 2, 2.0) == []
    assert whole([], OBJECTIVE, ["a"]) is None and details([]).servers == []


def test_a_part_without_requests_has_no_figures() -> None:
    found = played(request(100))
    assert [of_part(part, OBJECTIVE, ["a"]) is None for part in slices(found, 2, 0.0)] == [False, True]


def test_stretches_are_counted_as_if_nothing_had_been_between_them() -> None:
    first, second = (played(request(at + 1.0), began=at, seconds=2.0) for at in (100.0, 500.0))
    parts = [*slices(first, 1, 0.0), *slices(second, 1, 0.0)]
    figures = whole(parts, OBJECTIVE, ["a"])
    assert figures is not None
    assert (figures.requests, figures.seconds) == (2, 4.0)
    assert figures.output_rate == pytest.approx(6 / 4)


def test_an_answer_without_text_in_a_stream_has_its_first_token_at_its_end() -> None:
    found = played(request(101, ttft=None, e2e=0.4, tokens=0))
    figures = whole(slices(found, 1, 0.0), OBJECTIVE, ["a"])
    assert figures is not None and figures.ttft.p50 == pytest.approx(0.4)
    assert details(slices(found, 1, 0.0)).without_text == 1


def test_who_answered_is_told_and_how_often() -> None:
    found = played(
        request(101, server="a"),
        request(102, server="b"),
        request(103, server="b"),
        request(104, server=None),
    )
    names = servers(found.requests)
    assert names == ["a", "b", NOBODY]
    here = details(slices(found, 1, 0.0)).servers
    assert [(one.name, one.requests, one.share) for one in here] == [
        ("a", 1, 0.25),
        ("b", 2, 0.5),
        (NOBODY, 1, 0.25),
    ]
    figures = whole(slices(found, 1, 0.0), OBJECTIVE, names)
    assert figures is not None and figures.shares == (0.25, 0.5, 0.25)


def test_failures_are_counted_by_kind() -> None:
    found = played(
        request(101, error="timeout"), request(102, error="timeout"), request(103, error="http 503")
    )
    assert details(slices(found, 1, 0.0)).failures == {"timeout": 2, "http 503": 1}


@pytest.mark.parametrize("late, doubtful", [(0.004, False), (0.02, True)], ids=["timers", "busy"])
def test_a_bench_that_was_late_itself_makes_its_figures_doubtful(late: float, doubtful: bool) -> None:
    found = played(*(request(100 + number, ttft=0.03 + late, late=late) for number in range(5)))
    parts = slices(found, 1, 0.0)
    figures = whole(parts, OBJECTIVE, ["a"])
    assert figures is not None and is_late(details(parts), figures) == doubtful


def test_every_request_is_in_the_report_with_what_became_of_it() -> None:
    found = played(request(101, late=0.001), request(103, is_over=False))
    good, unfinished = as_rows(found)
    assert (good["due"], good["ttft"], good["e2e"], good["late"], good["error"]) == (
        1.0,
        0.1,
        0.3,
        0.001,
        None,
    )
    assert (unfinished["error"], unfinished["e2e"]) == ("unfinished", 8.0)


def test_where_nothing_was_answered_nobody_has_answered() -> None:
    found = played(request(101, ttft=None, is_over=False), request(102, error="timeout"))
    parts = slices(found, 1, 0.0)
    assert servers(found.requests) == [] and details(parts).servers == []
    figures = whole(parts, OBJECTIVE, [])
    assert figures is not None and (figures.failed, figures.unfinished, figures.goodput) == (1, 1, 0.0)
