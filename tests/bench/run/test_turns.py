import json
from pathlib import Path

import pytest

from bench import compare
from bench.load import Options
from bench.run import report as reports
from bench.run.report import Report
from bench.run.server import server
from bench.run.turns import Settings, Turns
from bench.sim.statistics import Objective
from bench.workloads.spec import Kind, Workload
from epp.config.decode import ConfigError
from tests.bench.run.chat import Body, Write, chat, says_hello

WORKLOAD = Workload(
    name="tiny", about="a test", sessions=(Kind(name="all", input_tokens=5, output_tokens=3, turns=2),)
)


def turns(*urls: str, seconds: float = 0.4, rounds: int = 2, rate: float | None = 50.0) -> Turns:
    return Turns(
        names=urls,
        servers=[server(url, model="m") for url in urls],
        workload=WORKLOAD,
        settings=Settings(seconds=seconds, salt="s", rate=rate, rounds=rounds),
        options=Options(served_by_header=("x-served-by", "x-inference-pod")),
    )


def report(made: Turns, stopped: str = "") -> Report:
    found = Report(
        command="epp bench run",
        version="0",
        date="2026-01-01",
        workload="tiny",
        about="",
        asked="50 requests/s",
        asked_rate=50.0,
        rounds=made.settings.rounds,
        warm_up=0.0,
        seed=1,
        salt="s",
        objective=Objective(),
        contenders=made.contenders(),
        stopped=stopped,
    )
    found.count()
    return found


def texts(bodies: list[Body]) -> list[str]:
    return [body["messages"][-1]["content"] for body in bodies]


async def test_two_servers_take_turns_and_are_asked_the_same_in_other_words() -> None:
    order: list[str] = []

    def named(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        async def answer(body: Body, write: Write) -> None:
            order.append(name)
            await says_hello(body, write)

        return answer

    async with chat(named("a")) as a, chat(named("b")) as b:
        made = turns(a.url, b.url)
        await made.play()
    changes = [name for number, name in enumerate(order) if number == 0 or order[number - 1] != name]
    assert changes == ["a", "b", "a"]  # a b, b a
    assert len(a.bodies) == len(b.bodies) > 2
    assert not set(texts(a.bodies)) & set(texts(b.bodies))
    assert sorted(len(text.split()) for text in texts(a.bodies)) == sorted(
        len(text.split()) for text in texts(b.bodies)
    )
    for first, second in zip(*made.played, strict=True):
        due = [
            sorted(one.sample.due - each.began for one in each.requests if one.turn == 1)
            for each in (first, second)
        ]
        assert due[0] == pytest.approx(due[1])


async def test_a_server_alone_is_asked_in_one_stretch_which_has_parts() -> None:
    async with chat() as there:
        made = turns(there.url, rounds=4)
        await made.play()
    ((stretch,),) = made.played
    (contender,) = made.contenders()
    assert list(contender.parts) == [1, 2, 3, 4]
    assert all(part.stretch is stretch for part in contender.parts.values())


def test_a_workload_without_a_rate_says_so_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="has no rate"):
        turns("http://127.0.0.1:1", rate=None)


async def test_the_report_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    async with chat() as a, chat() as b:
        made = turns(a.url, b.url)
        await made.play()
    files = reports.write(report(made), tmp_path)
    assert {file.name for file in files} == {"report.json", "report.md", "report.html", "requests.png"}
    found = json.loads((tmp_path / "report.json").read_text())
    assert (found["kind"], found["is_partial"]) == ("run", False)
    requests = [one for each in found["stretches"] for one in each["requests"]]
    assert len(requests) == sum(one["figures"]["requests"] for one in found["whole"])
    assert {one["cached_tokens"] for one in requests} == {4}
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "<script" not in page and 'src="http' not in page
    text = (tmp_path / "report.md").read_text()
    assert "the second to the first" in text and "pod-1" in text and "PARTIAL" not in text


async def test_a_report_that_was_broken_off_says_so_at_its_head(tmp_path: Path) -> None:
    async with chat() as there:
        made = turns(there.url)
        await made.play()
    reports.write(report(made, "interrupted"), tmp_path)
    assert (tmp_path / "report.md").read_text().startswith("PARTIAL: interrupted.")
    assert '<p class="partial">PARTIAL: interrupted' in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["stopped"] == "interrupted"


async def test_a_run_that_was_broken_off_in_its_first_round_counts_nothing_but_keeps_it(
    tmp_path: Path,
) -> None:
    async with chat() as a, chat() as b:
        made = turns(a.url, b.url)
        await made.play()
    for stretches in made.played:
        del stretches[1:]
        stretches[0].is_complete = False
    found = report(made, "interrupted")
    reports.write(found, tmp_path)
    assert f"Nothing was counted of {a.url}." in (tmp_path / "report.md").read_text()
    kept = json.loads((tmp_path / "report.json").read_text())
    assert all(stretch["requests"] for stretch in kept["stretches"])


async def test_a_rate_that_was_not_reached_and_lateness_of_the_bench_are_told() -> None:
    async with chat() as there:
        made = turns(there.url, rounds=1)
        await made.play()
    found = report(made)
    found.asked_rate = 5_000.0
    for one in made.played[0][0].requests:
        one.late = 0.5
    found.found.clear()
    found.count()
    said = list(reports.head(found))
    assert any("requests/s were due, of 5000.0" in paragraph for paragraph in said)
    assert any(paragraph.startswith("LATE: ") and "up to 500 ms" in paragraph for paragraph in said)


async def test_compare_reads_what_run_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name in ("a", "b"):
        async with chat() as there:
            made = turns(there.url, rounds=3)
            await made.play()
        reports.write(report(made), tmp_path / name)
        paths.append(str(tmp_path / name / "report.json"))
    assert compare.main(paths) == 0
    said = capsys.readouterr().out
    assert "| TTFT p90 [ms] |" in said and "1 by Welch's t" in said


def test_a_seed_asks_the_same_again() -> None:
    first, again = (turns("http://127.0.0.1:1") for _ in range(2))
    other = Turns(
        names=["u"],
        servers=first.servers,
        workload=WORKLOAD,
        settings=Settings(seconds=0.4, salt="s", rate=50.0, seed=2),
        options=Options(),
    )
    at = [[session.at for session in each._sessions(1)] for each in (first, again, other)]
    assert at[0] == at[1] != at[2]
