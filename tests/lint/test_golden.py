"""tests/golden/lint: for each rule a trap (``bad``), the same without it (``good``), and what is said.

``GOLDEN=write pytest tests/lint/test_golden.py`` writes what is said. Read it before you keep it.
"""

import os

import pytest
import yaml

from epp.lint.registry import BY_CODE
from tests.lint.cases import CASES, GOLDEN, Case

WRITES = os.environ.get("GOLDEN") == "write"


def test_every_rule_has_a_folder() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(BY_CODE)
    assert all((path / "good.yaml").exists() and (path / "bad.yaml").exists() for path in GOLDEN.iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_the_trap_is_found_and_nothing_else(case: Case) -> None:
    findings = case.findings("bad")
    assert [finding.code for finding in findings] == [case.code], findings
    path = case.folder / "findings.yaml"
    text = yaml.safe_dump([one.words for one in findings], sort_keys=False, width=110, allow_unicode=True)
    if WRITES:
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_nothing_is_said_of_what_is_right(case: Case) -> None:
    assert case.findings("good") == []
