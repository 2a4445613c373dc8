"""Findings as people see them, and objects as YAML."""

import io
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.commands import manifests, showing
from epp.commands.comparing import Paper
from epp.compiler.findings import Origin, error, info, warning
from epp.config import decode

ORIGIN = Origin("Fleet", "llm", "site", field="models[a].pods", place="fleet.yaml:12", part="a")
FINDINGS = [
    error("SpecInvalid", ORIGIN, "is wrong", "mend it"),
    warning(
        "UnusedBackend", Origin("Fleet", "llm", "site", place="fleet.yaml:3"), "is of no use", "remove it"
    ),
    info("NoObject", Origin("", "", "values.yaml"), "left out"),
]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> list[str]:
    showing.show(FINDINGS, stream)
    return stream.getvalue().splitlines()


def test_a_paragraph_each_aligned() -> None:
    assert shown(io.StringIO()) == [
        "error   fleet.yaml:12  Fleet/llm/site/a: models[a].pods [SpecInvalid]",
        "        is wrong",
        "        -> mend it",
        "warning fleet.yaml:3   Fleet/llm/site [UnusedBackend]",
        "        is of no use",
        "        -> remove it",
        "info                   values.yaml [NoObject]",
        "        left out",
    ]


def test_in_colours_where_a_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    first, *_ = shown(Screen())
    assert first.startswith(
        "\x1b[31merror   \x1b[0mfleet.yaml:12  \x1b[1mFleet/llm/site/a: models[a].pods\x1b[0m"
    )


@pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_but_not_where_they_are_unwanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert "\x1b" not in "".join(shown(Screen()))


@pytest.mark.parametrize("color, stream", [("always", io.StringIO), ("never", Screen)])
def test_a_plan_has_them_as_its_flag_says(
    color: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = stream()
    Paper(out, color=color).findings(FINDINGS)
    assert ("\x1b[31merror" in out.getvalue()) is (color == "always")


def test_long_texts_are_wrapped() -> None:
    stream = io.StringIO()
    showing.show([error("C", ORIGIN, "word " * 100, "fix " * 100)], stream)
    assert all(len(line) <= 140 for line in stream.getvalue().splitlines())


def test_they_are_counted() -> None:
    assert showing.count([*FINDINGS, FINDINGS[0]]) == "2 errors, 1 warning, 1 info"
    assert showing.count([]) == ""


TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "1e3",
        "12e4567",
        "yes",
        "on",
        "0x1f",
        "0o17",
        "1_000",
        "1.5",
        ".5",
        "~",
        "null",
        "2026-01-01",
        "1:30",
        "=",
        "<<",
        "y",
    ]
)
DOCUMENTS = st.recursive(
    TEXTS | st.integers(-(10**12), 10**12) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab./-", min_size=1), inner, max_size=3)
    ),
)


@given(content=st.dictionaries(st.text("abc", min_size=1), DOCUMENTS, min_size=1, max_size=4))
def test_yaml_says_what_the_object_says_whoever_reads_it(content: dict[str, Any]) -> None:
    text = manifests.text_of(content)
    assert yaml.safe_load(text) == content
    assert decode.plain(decode.parse(text, "a")) == content


def test_a_hash_that_looks_like_a_number_is_quoted() -> None:
    assert manifests.text_of({"a": "12e4567", "b": "1e3", "c": "v1"}) == 'a: "12e4567"\nb: "1e3"\nc: v1\n'


def test_parts_that_are_one_object_are_written_out() -> None:
    part = {"x": 1}
    assert "&" not in manifests.text_of({"a": part, "b": part})
