import dataclasses
from pathlib import Path

import pytest

from bench import picks
from bench.findings import Round
from bench.picks import AFTER_NEWS, ALONE, FLEETS, THROUGH, Found, PickCost, Plan, PromptCost
from tests.bench.measured import a_round

FEW = Plan(picks=20, repetitions=2, rounds=1, seconds=0.2, warm_seconds=0.2)


def a_cost(endpoints: int, cpu_us: float, *, after_news: bool = False) -> PickCost:
    return PickCost(endpoints=endpoints, after_news=after_news, cpu_us=cpu_us)


def rounds(endpoints: int, *costs: float) -> list[Round]:
    return [a_round(load=picks.LOAD, endpoints=endpoints, picker_cpu_us=cost) for cost in costs]


FOUND = Found(
    picks=[
        *(a_cost(endpoints, cpu_us) for endpoints, cpu_us in zip(FLEETS, (10.0, 25.0, 150.0), strict=True)),
        a_cost(3, 20.0, after_news=True),
        a_cost(100, 321.0, after_news=True),
    ],
    rounds=[
        *rounds(3, 100.0, 200.0, 150.0),
        *rounds(100, 130.0, 210.0, 190.0),
        *rounds(1_000, 500.0, 600.0, 550.0),
    ],
    prompts=[
        PromptCost(body_kb=1, after_news=False, cpu_us=150.0),
        PromptCost(body_kb=1, after_news=True, cpu_us=200.0),
    ],
)


@pytest.mark.parametrize(
    "endpoints, where, more",
    [
        (100, ALONE, 15.0),
        (1_000, ALONE, 140.0),
        (100, AFTER_NEWS, 301.0),
        (1_000, AFTER_NEWS, None),
        pytest.param(100, THROUGH, 30.0, id="neighbours-differ-by-30-10-and-40"),
        (1_000, THROUGH, 400.0),
    ],
)
def test_what_more_endpoints_add(endpoints: int, where: str, more: float | None) -> None:
    assert picks.more(FOUND, endpoints, where) == more


def test_each_promise_is_kept_broken_or_not_measured() -> None:
    goals, table, by_cost = picks.tables(FOUND)
    assert [row[0].partition(":")[0] for row in goals.rows] == [
        *(
            f"{endpoints} endpoints, {where}"
            for where in (ALONE, AFTER_NEWS, THROUGH)
            for endpoints in ("100", "1,000")
        ),
        *(f"100 endpoints, predicted cost, {body_kb} KB" for body_kb in (1, 220)),
    ]
    assert [row[3] for row in goals.rows[-2:]] == ["yes", "not measured"], "the dearer of two counts"
    assert by_cost.rows == [["1 KB", "150.0", "200.0"], ["220 KB", "n/a", "n/a"]]
    assert goals.rows[0][1:] == ["≤ 300 µs", "15.00 µs", "yes"]
    assert goals.rows[2][1:] == ["≤ 300 µs", "301 µs", "**no**"]
    assert goals.rows[3][1:] == ["≤ 2,000 µs", "n/a", "not measured"]
    assert table.rows[0] == ["3", "10.0", "20.0", "150.0", "1,000"]
    assert table.rows[2] == ["1,000", "150.0", "n/a", "550.0", "1,000"]


def test_without_rounds_nothing_is_said_of_them() -> None:
    found = dataclasses.replace(FOUND, rounds=[])
    assert picks.more(found, 100, THROUGH) is None
    assert picks.tables(found)[1].rows[0][-2:] == ["n/a", "n/a"]


def test_a_pick_in_this_process_costs_something_and_more_after_news() -> None:
    quiet, news = (picks.in_process(200, FEW, after_news=after_news) for after_news in (False, True))
    assert 0 < quiet.cpu_us < news.cpu_us, "with news the scores of 200 endpoints are made anew"


def test_a_pick_by_predicted_cost_costs_something_whatever_is_under_way() -> None:
    plan = Plan(picks=250, repetitions=1)
    assert picks.by_cost(1, plan, after_news=True).cpu_us > 0


def test_fleets_take_turns_behind_envoy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picks, "FLEETS", (1, 2))
    found = picks.through_envoy(dataclasses.replace(FEW, rounds=2), tmp_path)
    assert [one.endpoints for one in found] == [1, 2, 1, 2]
    assert all(one.picker_cpu_us and not one.failures for one in found)
