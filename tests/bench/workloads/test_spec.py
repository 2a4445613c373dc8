"""What is written in a workload's file, and what is said of mistakes in it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads import spec
from bench.workloads.distributions import Lengths, Shape, Times, quantile
from bench.workloads.spec import Arrivals, Beginning, Bursts, Diurnal, Kind, Stage, Trace, Workload
from epp.config.decode import ConfigError

CHAT = """\
name: chat
sessions:
- name: people
  beginning:
  - {tokens: 1000, texts: 1}
  - {tokens: 400}
  turns: {shape: logNormal, mean: 4, sd: 2.5, min: 1, max: 15}
  inputTokens: 50
  outputTokens: {shape: normal, mean: 300, sd: 150, min: 10, max: 1000}
  think: {shape: logNormal, mean: 45s, sd: 40s, min: 5s, max: 5m}
"""
PEOPLE = Kind(
    name="people",
    beginning=(Beginning(tokens=1000, texts=1), Beginning(tokens=400)),
    turns=Lengths(shape="logNormal", mean=4, sd=2.5, min=1, max=15),
    input_tokens=50,
    output_tokens=Lengths(shape="normal", mean=300, sd=150, min=10, max=1000),
    think=Times(shape="logNormal", mean=45, sd=40, min=5, max=300),
)


def test_a_file_is_decoded() -> None:
    assert spec.decode(CHAT, "chat.yaml") == Workload(name="chat", sessions=(PEOPLE,))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("arrivals: {bursts: {sessions: 50}}", {"arrivals": Arrivals(bursts=Bursts(sessions=50))}),
        (
            "arrivals: {diurnal: {period: 10m, swing: 0.8}}",
            {"arrivals": Arrivals(diurnal=Diurnal(period=600, swing=0.8))},
        ),
        (
            "arrivals: {stages: [{requestsPerSecond: 3, duration: 20s}]}",
            {"arrivals": Arrivals(stages=(Stage(requests_per_second=3, duration=20),))},
        ),
        ("arrivals: {users: 40}", {"arrivals": Arrivals(users=40)}),
        ("requestsPerSecond: 10\nduration: 1h", {"requests_per_second": 10, "duration": 3600}),
        ("sessionsPerSecond: 0.5", {"sessions_per_second": 0.5}),
        ("maxContextTokens: 8192", {"max_context_tokens": 8192}),
    ],
)
def test_what_else_can_be_said(text: str, expected: dict[str, object]) -> None:
    workload = Workload(name="chat", sessions=(PEOPLE,))
    assert spec.decode(f"{CHAT}{text}\n", "chat.yaml") == replace(workload, **expected)


WRONG = [
    # units
    (
        "inputTokens: 50",
        "inputTokens: 50s",
        'inputTokens: expected an integer, got "50s", write it without a unit',
    ),
    (
        "inputTokens: 50",
        "inputTokens: 4k",
        'inputTokens: expected an integer, got "4k", write it without a unit',
    ),
    ("mean: 300", "mean: 300 tokens", 'mean: expected a number, got "300 tokens", write it without a unit'),
    ("mean: 45s", "mean: 45", 'think.mean: expected a duration such as "500ms", "2s" or "1m30s", got 45'),
    (
        "mean: 45s",
        "mean: 45 seconds",
        'expected a duration such as "500ms", "2s" or "1m30s", got "45 seconds"',
    ),
    # negative
    ("min: 5s", "min: -5s", "sessions[0].think.min: -5 is negative: write 0 or more"),
    ("sd: 40s", "sd: -40s", "sessions[0].think.sd: -40 is negative: write 0 or more"),
    (
        "think: {shape: logNormal, mean: 45s, sd: 40s, min: 5s, max: 5m}",
        "think: -5s",
        "sessions[0].think: -5s is negative: write 0s or more",
    ),
    (
        "inputTokens: 50",
        "inputTokens: -1",
        "inputTokens: -1 is not a number of tokens: write 0 to 10,000,000",
    ),
    ("tokens: 400", "tokens: 0", "beginning[1].tokens: 0 is not a number of tokens: write 1 to 10,000,000"),
    ("texts: 1", "texts: 0", "beginning[0].texts: 0 is not a number of texts: write 1 to 1,000,000"),
    (
        "name: people",
        "name: people\n  share: 0",
        "share: 0 is not above 0: leave the kind out, or give it a share",
    ),
    # empty, missing, unknown
    (CHAT[11:], "sessions: []\n", "chat.yaml:2: sessions: is empty: write at least one kind of session"),
    (CHAT[11:], "", "chat.yaml:1: sessions: write either sessions or a trace"),
    ("  inputTokens: 50\n", "", 'chat.yaml:3: sessions[0]: "inputTokens" is missing'),
    ("inputTokens", "inputToken", 'sessions[0].inputToken: unknown field, did you mean "inputTokens"?'),
    (
        "shape: normal",
        "shape: gaussian",
        'outputTokens.shape: expected one of "normal", "logNormal", "exponential"',
    ),
    ("name: people", "name: two words", 'sessions[0].name: "two words" is not one word'),
    # what does not fit together
    ("mean: 300", "mean: 3000", "outputTokens.mean: 3000 is not between min (10) and max (1000)"),
    (", sd: 150", "", 'outputTokens: sd: is missing: "normal" needs a standard deviation'),
    ("shape: normal", "shape: exponential", "outputTokens.sd: leave it out: an exponential has no other"),
    (
        "shape: normal, mean: 300, sd: 150",
        "shape: bimodal, mean: 300, sd: 900",
        "sd: 900 puts the high mode at 3086.4, not between mean (300) and max (1000)",
    ),
    ("  inputTokens: 50", "  inputTokens: 0", "inputTokens: 0 leaves turns without a question"),
    (
        "{tokens: 400}",
        "{tokens: 400}\n  - {tokens: 9, texts: 2}",
        "beginning: after a text of the session's own",
    ),
    (
        "mean: 4, sd: 2.5, min: 1, max: 15",
        "mean: 4, sd: 1, max: 20000",
        "turns: 1 to 20000 is not a number of turns",
    ),
    (
        CHAT[-1:],
        "\nmaxContextTokens: 900\n",
        "maxContextTokens: 900 is not above the longest answer of people (1000",
    ),
    (CHAT[-1:], "\nrequestsPerSecond: 0\n", "requestsPerSecond: 0 is not above 0: write how many a second"),
    (
        CHAT[-1:],
        "\nrequestsPerSecond: 1\nsessionsPerSecond: 1\n",
        "sessionsPerSecond: excludes requestsPerSecond",
    ),
    (CHAT[-1:], "\nduration: -1m\n", 'duration: -60s is not above 0: write how long, such as "10m"'),
    (
        CHAT[-1:],
        "\narrivals: {users: 1, bursts: {sessions: 2}}\n",
        "arrivals.users: excludes bursts: write one",
    ),
    (CHAT[-1:], "\narrivals: {users: 0}\n", "arrivals.users: 0 ask nothing: write 1 or more"),
    (
        CHAT[-1:],
        "\narrivals: {stages: []}\n",
        "arrivals.stages: is empty: write at least one, or leave it out",
    ),
    (CHAT[-1:], "\narrivals: {bursts: {sessions: 0}}\n", "sessions: 0 at once is no burst: write 1 or more"),
    (CHAT[-1:], "\narrivals: {diurnal: {period: 0s, swing: 1}}\n", "period: 0s is not above 0"),
    (CHAT[-1:], "\narrivals: {diurnal: {period: 1m, swing: 2}}\n", "swing: 2 is not between 0 and 1"),
    (CHAT[-1:], "\ntrace: {like: mooncake-toolagent}\n", "sessions: write either sessions or a trace"),
]


@pytest.mark.parametrize("right, wrong, message", WRONG, ids=[message[:60] for _, _, message in WRONG])
def test_a_mistake_is_told_in_one_line(right: str, wrong: str, message: str) -> None:
    head, _, tail = CHAT.rpartition(right)
    with pytest.raises(ConfigError) as raised:
        spec.decode(head + wrong + tail, "chat.yaml")
    said = str(raised.value)
    assert said.startswith("chat.yaml:") and message in said and "\n" not in said


def test_two_kinds_of_one_name_are_refused() -> None:
    text = CHAT + "".join(f"{line}\n" for line in CHAT.splitlines()[2:])
    with pytest.raises(ConfigError, match='sessions: two kinds have the name "people": rename one'):
        spec.decode(text, "chat.yaml")


@pytest.mark.parametrize(
    "trace, message",
    [
        ("{file: a.jsonl}", 'trace: format: is missing: write "mooncake", "azure" or "burstgpt"'),
        ("{format: azure}", 'trace: file: is missing: write a file and its format, or "like"'),
        ("{file: a.csv, format: azure, like: mooncake-toolagent}", "trace.like: excludes file and format"),
        ("{file: a.csv, format: csv}", 'trace.format: expected one of "mooncake", "azure", "burstgpt"'),
    ],
)
def test_a_trace_is_a_file_or_made(trace: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spec.decode(f"name: replayed\ntrace: {trace}\n", "t.yaml")
    assert message in str(raised.value)


def test_a_trace_has_its_own_arrivals() -> None:
    with pytest.raises(ConfigError, match="arrivals: a trace has its own: leave them out"):
        spec.decode("name: t\ntrace: {like: mooncake-toolagent}\narrivals: {users: 3}\n", "t.yaml")


def test_a_traces_file_is_beside_the_workloads(tmp_path: Path) -> None:
    file = tmp_path / "replayed.yaml"
    file.write_text("name: replayed\ntrace: {file: sub/a.jsonl, format: mooncake}\n")
    assert spec.load(file).trace == Trace(file=str(tmp_path / "sub/a.jsonl"), format="mooncake")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "w.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"w\.yaml: (cannot be read: No such file|is not UTF-8 text)"):
        spec.load(file)


@pytest.mark.parametrize("name", spec.catalogue())
def test_each_of_the_catalogue_has_its_files_name_says_what_it_is_and_whence(name: str) -> None:
    workload = spec.find(name)
    assert workload.name == name and workload.about
    assert spec.catalogue()[name].read_text().startswith(("# Source: ", "# Ours: "))


def test_the_catalogue_has_what_is_usually_compared() -> None:
    assert {
        "interactive-chat",
        "code-generation",
        "shared-prefix",
        "generated-shared-prefix",
        "deep-research",
        "agentic",
        "batch-rag",
        "reasoning",
        "mixed",
        "aibrix-842",
        "mooncake-toolagent",
        "small",
        *(f"predicted-latency-{letter}" for letter in "abcd"),
    } <= set(spec.catalogue())


def test_mixed_has_the_kinds_of_the_other_files_unchanged() -> None:
    for kind in spec.find("mixed").sessions or ():
        (own,) = spec.find(kind.name).sessions or ()
        assert replace(kind, name=own.name, share=1.0) == own


def test_an_unknown_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(ConfigError, match='workload "mixd" is unknown, did you mean "mixed"'):
        spec.find("mixd")
    with pytest.raises(ConfigError, match=r"is unknown, known are .*mixed.*, or write the path of a file"):
        spec.find("zzzzzz")


# --- whatever is written ---------------------------------------------------------------------------

numbers = st.one_of(st.integers(-10, 10**7), st.floats(allow_nan=False, allow_infinity=False, width=32))
written = st.recursive(
    st.one_of(
        numbers, st.sampled_from(["45s", "-1s", "4k", "normal", "logNormal", "bimodal", ""]), st.none()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["shape", "mean", "sd", "min", "max", "tokens", "texts"]), inner),
    ),
    max_leaves=8,
)
FIELDS = ("share", "priority", "beginning", "turns", "inputTokens", "outputTokens", "think")


arrivals = st.one_of(
    written,
    st.fixed_dictionaries({"users": st.integers(-1, 3)}),
    st.fixed_dictionaries({"diurnal": st.fixed_dictionaries({"period": st.just("1m"), "swing": numbers})}),
)


def refused(text: str) -> str:
    """What is said of it; empty: nothing."""
    try:
        spec.decode(text, "w.yaml")
    except ConfigError as error:
        return str(error)
    return ""


@given(fields=st.dictionaries(st.sampled_from(FIELDS), written, max_size=3), arrivals=st.none() | arrivals)
def test_anything_is_decoded_or_refused_in_one_line(fields: dict[str, object], arrivals: object) -> None:
    kind = {"name": "k", "inputTokens": 10, "outputTokens": 10, **fields}
    said = refused(json.dumps({"name": "w", "sessions": [kind], "arrivals": arrivals, "duration": "1m"}))
    assert not said or (said.startswith("w.yaml:1: ") and "\n" not in said)


def lengths_of(*, shape: Shape, mean: float, sd: float | None, least: float, most: float) -> Lengths | str:
    try:
        return Lengths(shape=shape, mean=mean, sd=sd, min=least, max=most)
    except ValueError as error:
        return str(error)


@given(
    shape=st.sampled_from(get_args(Shape)),
    mean=st.floats(0, 1e6) | st.floats(0, 1e300),
    sd=st.none() | st.floats(-1, 1e6) | st.floats(0, 1e300),
    least=st.floats(-1, 1e6),
    most=st.floats(0, 1e6) | st.just(math.inf),
)
def test_lengths_are_refused_or_drawn_within_their_bounds(
    shape: Shape, mean: float, sd: float | None, least: float, most: float
) -> None:
    made = lengths_of(shape=shape, mean=mean, sd=sd, least=least, most=most)
    if isinstance(made, str):
        assert made.partition(": ")[0] in {"min", "mean", "sd"}
        return
    at = quantile(made)
    values = [at(part) for part in (1e-12, 0.01, 0.3, 0.5, 0.9, 0.99, 1 - 1e-12)]
    assert values == sorted(values)
    assert least <= values[0] and values[-1] <= most
