"""A workload's line of figures."""

import re
from pathlib import Path

import pytest

from bench.workloads import spec
from bench.workloads.describe import describe, table
from bench.workloads.spec import Beginning, Kind, Workload

PAGE = Path(__file__).parents[3] / "docs/workloads.md"


def test_a_group_has_its_beginning_in_common() -> None:
    kind = Kind(name="k", beginning=(Beginning(tokens=300, texts=2),), input_tokens=100, output_tokens=7)
    found = describe(Workload(name="w", about="two groups", sessions=(kind,)))
    assert (found.prompt_tokens, found.output_tokens, found.turns, found.beginnings) == (400, 7, 1, 2)
    assert found.common == pytest.approx(998 * 300 / (1_000 * 400))


def test_a_later_turn_has_all_before_it_in_common_the_answer_included() -> None:
    kind = Kind(name="k", turns=2, input_tokens=100, output_tokens=50, think=1.0)
    found = describe(Workload(name="w", sessions=(kind,)))
    assert found.prompt_tokens == (100 + 250) / 2 and found.turns == 2 and found.beginnings == 1_000
    assert found.common == pytest.approx(150 / 350)


def test_a_table_is_a_row_for_each() -> None:
    rows = table([describe(spec.find("aibrix-842")), describe(spec.find("reasoning"))]).splitlines()
    assert rows[0].startswith("| workload | prompt tokens | output tokens | turns | common | beginnings |")
    assert rows[2].startswith("| aibrix-842 | 8,500 | 256 | 1.0 | 93% | 10 |") and len(rows) == 4


def test_of_a_trace_the_requests_are_described() -> None:
    found = describe(spec.find("mooncake-conversation"))
    assert found.turns == 1 and found.beginnings == 1 and found.common == pytest.approx(0.4, abs=0.06)


SYNTHETIC = [name for name, path in spec.catalogue().items() if "trace:" not in path.read_text()]


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_page_has_the_figures_of_the_catalogue(name: str) -> None:
    assert table([describe(spec.find(name))]).splitlines()[2] in PAGE.read_text(encoding="utf-8")


def test_the_pages_example_is_a_workload() -> None:
    for example in re.findall(
        r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        assert spec.decode(example, "example.yaml").name
