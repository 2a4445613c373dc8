"""context-length-aware, against numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.picker_config import build, load
from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.core.request import Payload, Request
from epp.core.scoring import Cycle
from scorers.context_length_aware import ContextLengthAware
from tests.picking import TYPES, cycle_of

LABEL = "llm-d.ai/context-length-range"


def ranges(*written: str | None, label: str = LABEL) -> tuple[Endpoint, ...]:
    fleet = Fleet()
    fleet.replace(
        (
            EndpointSpec(name=f"e{i}", ip="10.0.0.1", port=i, labels={} if each is None else {label: each})
            for i, each in enumerate(written)
        ),
        0.0,
    )
    return fleet.endpoints


def of_length(tokens: int) -> Cycle:
    return cycle_of(Request(payload=Payload(prompt=b"x" * (4 * tokens))))


@pytest.mark.parametrize(
    "written, tokens, score",
    [
        # width 10000: 1 / (1 + 1) = 0.5; headroom 7500 / 10000 = 0.75; raw 0.7 * 0.5 + 0.3 * 0.75 = 0.575
        pytest.param("0-10000", 2500, 0.3 + 0.7 * 0.575, id="inside"),
        # width 2500: 1 / 1.25 = 0.8; headroom 0; raw 0.56
        pytest.param("1000-3500", 3500, 0.3 + 0.7 * 0.56, id="at-its-end"),
        # width 2500: 0.8; headroom 1; raw 0.86
        pytest.param("1000-3500", 1000, 0.3 + 0.7 * 0.86, id="at-its-beginning"),
        pytest.param("2048-2048", 2048, 1.0, id="a-range-of-one-length"),
        pytest.param("0-1000", 2000, 0.3 / 2, id="1000-tokens-too-long"),
        pytest.param("4000-8000", 1000, 0.3 / 4, id="3000-tokens-too-short"),
        pytest.param(" 0 - 10000 ", 10_000, 0.3 + 0.7 * 0.35, id="spaces"),
        pytest.param(None, 2500, 0.5, id="no-label"),
        pytest.param("", 2500, 0.0, id="empty"),
        pytest.param("long", 2500, 0.0, id="no-range"),
        pytest.param("-5-10", 5, 0.0, id="negative"),
        pytest.param("9000-1000", 5000, 0.0, id="turned-round"),
        pytest.param("1-2-3", 2, 0.0, id="three-numbers"),
    ],
)
def test_tight_ranges_with_room_score_best(written: str | None, tokens: int, score: float) -> None:
    assert ContextLengthAware().score(of_length(tokens), ranges(written)) == [pytest.approx(score)]


@pytest.mark.parametrize(
    "tokens, kept",
    [
        pytest.param(500, [0, 2], id="short"),
        pytest.param(1000, [0, 1, 2], id="ends-are-inside"),
        pytest.param(5000, [1, 2], id="long"),
        pytest.param(9000, [2], id="too-long"),
    ],
)
def test_as_a_filter_it_keeps_whom_the_length_fits(tokens: int, kept: list[int]) -> None:
    endpoints = ranges("0-1000", "1000-8000", None, "rubbish")
    plugin = ContextLengthAware(enable_filtering=True)
    assert list(plugin.filter(of_length(tokens), endpoints)) == [endpoints[i] for i in kept]


@pytest.mark.parametrize("parameters, is_filter", [("{}", False), ("{enableFiltering: true}", True)])
def test_it_is_a_filter_only_on_demand(parameters: str, is_filter: bool) -> None:
    text = "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\n"
    text += f"plugins: [{{type: context-length-aware, parameters: {parameters}}}]"
    profile = build(load(text, "c.yaml"), TYPES).profile
    assert [name for name, _ in profile.filters] == ["context-length-aware"] * is_filter + [
        "lifecycle-filter"
    ]
    assert [name for name, _, _ in profile.scorers] == ["context-length-aware"]


def test_the_label_may_be_another() -> None:
    endpoints = ranges("0-1000", label="context")
    assert ContextLengthAware(label="context").score(of_length(2000), endpoints) == [pytest.approx(0.15)]
    with pytest.raises(ValueError, match="label: must not be empty"):
        ContextLengthAware(label="")


@given(
    least=st.integers(0, 100_000),
    width=st.integers(0, 100_000),
    others=st.lists(st.integers(0, 100_000), min_size=2, max_size=2),
    tokens=st.integers(0, 100_000),
)
def test_a_range_that_fits_always_beats_one_that_does_not(
    least: int, width: int, others: list[int], tokens: int
) -> None:
    low, high = sorted(others)
    endpoints = ranges(f"{least}-{least + width}", f"{low}-{high}")
    plugin = ContextLengthAware(enable_filtering=True)
    cycle = of_length(tokens)
    scores = plugin.score(cycle, endpoints)
    fits = [endpoint in plugin.filter(cycle, endpoints) for endpoint in endpoints]
    assert all(score is not None and 0.0 <= score <= 1.0 for score in scores)
    assert all(
        (score or 0.0) >= 0.3 if fit else (score or 0.0) < 0.3
        for score, fit in zip(scores, fits, strict=True)
    )


@given(text=st.text(max_size=20))
def test_any_label_has_a_score(text: str) -> None:
    (score,) = ContextLengthAware().score(of_length(10), ranges(text))
    assert score is not None and 0.0 <= score <= 1.0
