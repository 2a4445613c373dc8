"""Figures of one's own: read from a page, filtered and scored, against numbers worked out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.engines import read_load
from epp.core.fleet import Endpoint, Load
from scorers.core_metrics_extractor import CustomMetric, EngineConfig
from scorers.endpoint_attribute_filter import EndpointAttributeFilter, Threshold, ThresholdAlgorithm
from scorers.endpoint_attribute_scorer import Algorithm, EndpointAttributeScorer, FixedRange, Normalization
from tests.picking import cycle_of, endpoints_of


def having(*values: float | None) -> tuple[Endpoint, ...]:
    return endpoints_of(*(Load(attributes=None if value is None else {"power": value}) for value in values))


LOWER, HIGHER = "linear_lower_is_better", "linear_higher_is_better"


@pytest.mark.parametrize(
    "kind, fixed, values, expected",
    [
        pytest.param(LOWER, None, [100, 150, 300], [1.0, 0.75, 0.0], id="lower-is-better"),
        pytest.param(HIGHER, None, [100, 150, 300], [0.0, 0.25, 1.0], id="higher-is-better"),
        pytest.param(LOWER, None, [7, 7], [1.0, 1.0], id="all-equal-is-1"),
        pytest.param(HIGHER, None, [None, 2, 4], [None, 0.0, 1.0], id="missing-has-no-score"),
        pytest.param(HIGHER, None, [None, None], [None, None], id="all-missing"),
        pytest.param(LOWER, (0.0, 400.0), [100, 300], [0.75, 0.25], id="a-fixed-range"),
        pytest.param(HIGHER, (0.0, 400.0), [100, 500, -5], [0.25, 1.0, 0.0], id="ends-of-a-fixed-range"),
        pytest.param(HIGHER, (0.0, 400.0), [100, 100], [0.25, 0.25], id="all-equal-in-a-fixed-range"),
        pytest.param(LOWER, None, [-4, -2], [1.0, 0.0], id="below-0"),
    ],
)
def test_scores_are_linear_in_the_range(
    kind: Any, fixed: tuple[float, float] | None, values: list[float | None], expected: list[float | None]
) -> None:
    ends = FixedRange(min=fixed[0], max=fixed[1]) if fixed else None
    algorithm = Algorithm(type=kind, normalization=Normalization(fixed_range=ends))
    scorer = EndpointAttributeScorer(attribute_key="power", algorithm=algorithm)
    assert scorer.score(cycle_of(), having(*values)) == expected


@given(
    values=st.lists(st.none() | st.floats(-1e9, 1e9), max_size=8),
    ends=st.none() | st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2, unique=True),
)
def test_either_end_may_be_better(values: list[float | None], ends: list[float] | None) -> None:
    endpoints = having(*values)
    fixed = FixedRange(min=min(ends), max=max(ends)) if ends else None
    lower, higher = (
        EndpointAttributeScorer(
            attribute_key="power",
            algorithm=Algorithm(type=kind, normalization=Normalization(fixed_range=fixed)),
        ).score(cycle_of(), endpoints)
        for kind in (LOWER, HIGHER)
    )  # type: ignore[misc]
    known = {value for value in values if value is not None}
    for value, low, high in zip(values, lower, higher, strict=True):
        assert (low is None) == (high is None) == (value is None)
        if low is not None and high is not None:
            assert -1e-9 <= low <= 1 + 1e-9 and -1e-9 <= high <= 1 + 1e-9
            if fixed or len(known) > 1:
                assert low + high == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "operator, kept",
    [
        ("LessThan", [0]),
        ("LessThanOrEqual", [0, 1]),
        ("GreaterThan", [2]),
        ("GreaterThanOrEqual", [1, 2]),
        ("Equal", [1]),
        ("NotEqual", [0, 2]),
    ],
)
def test_a_threshold_keeps_those_that_compare(operator: Any, kept: list[int]) -> None:
    endpoints = having(1.0, 2.0, 3.0, None)
    algorithm = ThresholdAlgorithm(type="threshold", threshold=Threshold(operator=operator, value=2.0))
    strict = EndpointAttributeFilter(attribute="power", algorithm=algorithm, on_missing="Fail")
    lenient = EndpointAttributeFilter(attribute="power", algorithm=algorithm)
    assert list(strict.filter(cycle_of(), endpoints)) == [endpoints[i] for i in kept]
    assert list(lenient.filter(cycle_of(), endpoints)) == [endpoints[i] for i in (*kept, 3)]


@pytest.mark.parametrize("fallback, kept", [(False, 0), (True, 2)])
def test_where_nobody_is_left_all_are_kept_on_demand(fallback: bool, kept: int) -> None:
    algorithm = ThresholdAlgorithm(type="threshold", threshold=Threshold(operator="GreaterThan", value=9.0))
    plugin = EndpointAttributeFilter(attribute="power", algorithm=algorithm, fallback_on_empty=fallback)
    assert len(plugin.filter(cycle_of(), having(1.0, 2.0))) == kept


ENGINE = EngineConfig(
    name="mine",
    custom_metrics=(
        CustomMetric(attribute_key="power", metric_spec="gpu_power_watts"),
        CustomMetric(attribute_key="temperature", metric_spec="celsius{sensor=hot}"),
    ),
).adapter()


@pytest.mark.parametrize(
    "page, attributes",
    [
        pytest.param(b"gpu_power_watts 250.5\n", {"power": 250.5}, id="one-of-them"),
        pytest.param(
            b'celsius{sensor="cold"} 20\ncelsius{sensor="hot"} 81\ngpu_power_watts -1\n',
            {"power": -1.0, "temperature": 81.0},
            id="by-label",
        ),
        pytest.param(b'gpu_power_watts{gpu="0"} 1\ngpu_power_watts{gpu="1"} 2\n', {}, id="told-twice"),
        pytest.param(b"gpu_power_watts NaN\n", {}, id="no-number"),
        pytest.param(b"gpu_power_watts +Inf\n", {}, id="endless"),
        pytest.param(b"", {}, id="nothing"),
    ],
)
def test_figures_are_read_under_the_names_they_are_given(page: bytes, attributes: dict[str, float]) -> None:
    load = read_load(ENGINE, page, {}, 0.0)
    assert load.attributes == attributes
    assert load.attribute("power") == attributes.get("power") and load.attribute("x") is None


@pytest.mark.parametrize(
    "made, parameters, message",
    [
        (FixedRange, {"min": 1.0, "max": 1.0}, r"max: must be above min \(1\), got 1"),
        (CustomMetric, {"attribute_key": "", "metric_spec": "x"}, "attributeKey: must not be empty"),
        (CustomMetric, {"attribute_key": "x", "metric_spec": ""}, "metricSpec: must not be empty"),
        (CustomMetric, {"attribute_key": "x", "metric_spec": "a{"}, "metricSpec: 'a{' is no metric"),
        (
            EngineConfig,
            {"name": "a", "custom_metrics": (CustomMetric(attribute_key="x", metric_spec="y"),) * 2},
            'customMetrics: the attributeKey "x" is there twice',
        ),
    ],
)
def test_what_cannot_work_is_refused(made: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**parameters)
