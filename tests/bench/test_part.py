import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import part
from bench.gateway import Gone, Stuck
from bench.report import Table
from bench.rig.process import RigError

TABLE = Table("Goals", ["figure", "goal"], [["a", "b"]])


def test_a_report_goes_to_the_terminal_to_files_and_into_its_part_of_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- picks: generated -->\nold\n<!-- picks: end -->\nafter\n")
    options = part.parser("picks", "What it is.\n\nMore.").parse_args(
        ["--out", str(tmp_path / "out"), "--into", str(page)]
    )
    part.Part("picks", options, " --quick").publish([TABLE], {"a": 1})
    assert "| a | b |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "picks.json").read_text()) == {"a": 1}
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- picks: end -->\nafter\n")
    assert "`python -m bench.picks --quick`, 20" in text and "| a | b |" in text and "old" not in text


def test_without_a_page_none_is_written(tmp_path: Path) -> None:
    options = argparse.Namespace(out=tmp_path, into=None)
    part.Part("pools", options).publish([TABLE], [])
    assert {path.name for path in tmp_path.iterdir()} == {"pools.json", "pools.md"}


async def grouped(make: Callable[[], Exception]) -> None:
    async def fails() -> None:
        raise make()

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


@pytest.mark.parametrize(
    "make, expected, said",
    [
        (lambda: ValueError("no endpoint was picked: all are down"), ValueError, "no endpoint was picked"),
        (Gone, RigError, "the picker: it closed the connection"),
        (lambda: Stuck("stream 5: 2 messages are due"), RigError, "the picker: stream 5: 2 messages are due"),
    ],
    ids=["refused", "gone", "stuck"],
)
def test_what_goes_wrong_in_a_task_is_said_plainly(
    make: Callable[[], Exception], expected: type[Exception], said: str
) -> None:
    with pytest.raises(expected, match=said):
        part.played(grouped(make))


def test_what_goes_well_is_returned() -> None:
    assert part.played(asyncio.sleep(0, result=5)) == 5
