"""The matrix as data, how it is shown, and what its command says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import command
from bench.failover import __main__ as failover
from bench.failover import report, timeline
from bench.failover.house import Stand
from bench.failover.play import Run
from bench.failover.report import Matrix, Row
from bench.failover.scenarios import AT_ONCE, BACK, BY_NAME, KEEPS_SERVING, SCENARIOS, Scenario
from epp.main import main
from tests.bench.test_failover_account import MOMENTS, OTHER, VICTIM, Fate, account, request

LOST = [request(-0.5, VICTIM), request(0.2, VICTIM, Fate.FAILED), request(1.0, OTHER), request(5.0, VICTIM)]
FINE = [request(-0.5, VICTIM), request(1.0, OTHER), request(4.6, VICTIM)]


def played(*requests: Any) -> Run:
    return Run(requests, MOMENTS, account(requests, MOMENTS), {"victim": VICTIM, "other": OTHER})


def matrix(*rows: Row) -> Matrix:
    return Matrix("epp bench failover", "2026-01-01", {"CPU": "one"}, 50.0, 10.0, list(rows))


def killed(*runs: Run, name: str = "fleet-epp", why: str = "") -> Row:
    return Row(BY_NAME["kill"], name, list(runs), why)


# --- the data ----------------------------------------------------------------------------------------


def test_every_scenario_has_a_name_of_its_own_and_something_to_expect() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    for one in SCENARIOS:
        assert re.fullmatch(r"[a-z-]+", one.name) and one.what and one.expect and one.times >= 1


def test_a_scenario_for_a_newcomer_is_a_row() -> None:
    one = Scenario("new", "nothing", strike=lambda _: None, heal=lambda _: None, expect=(KEEPS_SERVING,))
    assert (one.stand, one.times, one.retries) == (Stand.PLAIN, 3, False)


# --- goals -------------------------------------------------------------------------------------------


def test_the_median_forgives_what_the_worst_does_not() -> None:
    accounts = [played(*FINE).account, played(*FINE).account, played(*LOST).account]
    median, worst = AT_ONCE
    assert (median.value(accounts), worst.value(accounts)) == (0.0, pytest.approx(200.0))
    assert (median.is_reached(accounts), worst.is_reached(accounts)) == (True, False)


def test_one_run_without_a_return_is_a_goal_missed() -> None:
    never = played(request(1.0, OTHER)).account
    assert BACK[0].value([played(*FINE).account, never]) is None
    assert not BACK[0].is_reached([played(*FINE).account, never])
    assert BACK[0].is_reached([played(*FINE).account])


def test_a_goal_may_be_a_least() -> None:
    assert not KEEPS_SERVING.is_reached([played(*LOST).account])


# --- tables and JSON ---------------------------------------------------------------------------------


def test_a_goal_that_was_missed_is_bold_and_named() -> None:
    row = killed(played(*LOST))
    page = report.markdown(matrix(row))
    assert "| kill | last new request sent there, worst | ≤ 50 ms | 200 ms | **no** |" in page
    assert "| kill | back: first request after | ≤ 1 s | 0.50 s | yes |" in page
    assert "- **kill**: SIGKILL" in page
    assert row.missed()[:2] == [*AT_ONCE]


def test_who_never_came_back_is_never_shown_as_a_number() -> None:
    page = report.markdown(matrix(killed(played(request(1.0, OTHER)))))
    assert "| kill | back: first request after | ≤ 1 s | never | **no** |" in page
    assert "| kill | 0 | 0 | never | never | 0% |" in page


def test_what_was_not_played_says_why() -> None:
    page = report.markdown(matrix(killed(why="needs network namespaces")))
    assert "| kill | not played: needs network namespaces | - | - | - |" in page
    assert "Requests" not in page


def test_two_pickers_have_tables_of_their_own() -> None:
    found = report.tables(matrix(killed(played(*FINE)), killed(played(*LOST), name="versus epp")))
    assert [one.title.partition(" (")[0] for one in found] == [
        *("Goals: fleet-epp", "Requests: fleet-epp", "Times: fleet-epp"),
        *("Goals: versus epp", "Requests: versus epp", "Times: versus epp"),
    ]


def test_every_request_is_in_the_json() -> None:
    data = json.loads(json.dumps(report.as_dict(matrix(killed(played(*LOST))))))
    (scenario,) = data["scenarios"]
    (run,) = scenario["runs"]
    rows = [dict(zip(data["request_fields"], one, strict=True)) for one in run["requests"]]
    assert [one["sent_s"] for one in rows] == [-0.5, 0.2, 1.0, 5.0]
    assert rows[1] | {"picked": VICTIM, "fate": "failed before any byte", "status": 503} == rows[1]
    assert run["back_s"] == 4.5 and run["account"]["lost_new"] == 1
    assert [one["is_reached"] for one in scenario["goals"][:2]] == [False, False]


def test_a_picture_is_drawn_of_what_was_played(tmp_path: Path) -> None:
    rows = [killed(played(*LOST)), killed(why="not here")]
    timeline.draw(rows, [tmp_path / "new" / "kill.svg"])
    drawn = (tmp_path / "new" / "kill.svg").read_text()
    assert drawn.count('<g id="axes_') == 2
    timeline.draw(rows[1:], [tmp_path / "none.svg"])
    assert not (tmp_path / "none.svg").exists()


# --- the command -------------------------------------------------------------------------------------


def test_the_command_in_a_report_names_no_folder_of_this_machine() -> None:
    given = failover._arguments(["--scenario=hang", "--seconds=5", "--versus=/bin/sh --v=2"], "epp")
    assert failover._said(given) == 'epp bench failover --scenario hang --seconds 5 --versus ".../sh"'
    assert failover._said(failover._arguments([], "epp")) == "epp bench failover"


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--seconds=1"], "--seconds 1: must be 3 to 120"),
        (["--rate=0"], "--rate 0: must be 5 to 500"),
        (["--scenario=kil"], "invalid choice: 'kil'"),
        (["--json=/nowhere/x.json"], "--json /nowhere/x.json: there is no directory /nowhere"),
        (["--into=README.md"], "--into: README.md: no part between <!-- failover: generated -->"),
        (["--into=/nowhere/x.md"], "--into: [Errno 2] No such file or directory"),
        (["--versus=/nowhere/epp"], "--versus: there is no command /nowhere/epp"),
    ],
)
def test_wrong_arguments_are_told(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        failover.main(flags)
    assert end.value.code == 2 and told in capsys.readouterr().err


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "gguf" else name)
    assert command.main(["failover"]) == 1
    assert capsys.readouterr().err == "epp bench: not installed: gguf: pip install 'fleet-epp[bench]'\n"


def test_the_bench_tells_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "failover" in capsys.readouterr().out
    assert command.main(["failovr"]) == 2
    assert 'unknown command "failovr"' in capsys.readouterr().err


def test_a_product_without_the_bench_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "failover"]) == 1
    assert capsys.readouterr().err == "epp bench: not installed: pip install 'fleet-epp[bench]'\n"
