from collections.abc import Mapping

import pytest

from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.core.request import Request
from epp.core.scoring import addressed
from scorers.header_based_testing_filter import HEADER, HeaderBasedTestingFilter
from scorers.label_selector_filter import LabelSelectorFilter, Requirement
from tests.picking import cycle_of


def labelled(*labels: Mapping[str, str]) -> tuple[Endpoint, ...]:
    fleet = Fleet()
    specs = (EndpointSpec(name=f"e{i}", ip="10.0.0.1", port=i, labels=each) for i, each in enumerate(labels))
    fleet.replace(specs, 0.0)
    return fleet.endpoints


FLEET = ({"gpu": "h100", "zone": "a"}, {"gpu": "l4", "zone": "b"}, {"zone": "a"}, {})


@pytest.mark.parametrize(
    "labels, requirements, kept",
    [
        pytest.param({}, [], [0, 1, 2, 3], id="empty-keeps-all"),
        pytest.param({"zone": "a"}, [], [0, 2], id="label"),
        pytest.param({"zone": "a", "gpu": "h100"}, [], [0], id="every-label"),
        pytest.param({}, [("gpu", "In", ["h100", "l4"])], [0, 1], id="in"),
        pytest.param({}, [("gpu", "NotIn", ["h100"])], [1, 2, 3], id="not-in-holds-without-the-label"),
        pytest.param({}, [("gpu", "Exists", [])], [0, 1], id="exists"),
        pytest.param({}, [("gpu", "DoesNotExist", [])], [2, 3], id="does-not-exist"),
        pytest.param({"zone": "a"}, [("gpu", "Exists", [])], [0], id="all-must-hold"),
        pytest.param({"zone": "c"}, [], [], id="none"),
    ],
)
def test_label_selector_keeps_what_matches(
    labels: dict[str, str], requirements: list[tuple[str, str, list[str]]], kept: list[int]
) -> None:
    selector = LabelSelectorFilter(
        match_labels=labels,
        match_expressions=tuple(
            Requirement(key=key, operator=operator, values=tuple(values))  # type: ignore[arg-type]
            for key, operator, values in requirements
        ),
    )
    endpoints = labelled(*FLEET)
    assert list(selector.filter(cycle_of(), endpoints)) == [endpoints[i] for i in kept]


ADDRESSES = [("10.0.0.1", 8000), ("10.0.0.1", 8001), ("10.0.0.2", 8000), ("fd00::1", 8000)]
NAMED = [
    pytest.param(["10.0.0.1"], [0, 1], id="a-bare-ip-is-any-port"),
    pytest.param(["10.0.0.1:8001"], [1], id="ip-and-port"),
    pytest.param([" 10.0.0.2:8000 ", "10.0.0.1:8000"], [0, 2], id="in-the-fleet's-order"),
    pytest.param(["[fd00::1]:8000"], [3], id="ipv6-and-port"),
    pytest.param(["[fd00::1]"], [3], id="ipv6-in-brackets"),
    pytest.param(["fd00:0:0:0:0:0:0:1"], [3], id="ipv6-in-long"),
    pytest.param(["[fd00::1]:9000"], [], id="ipv6-and-another-port"),
    pytest.param(["10.0.0.1:9000", "10.0.0.3", "::::", "[x", ""], [], id="none-of-ours"),
]


def addresses() -> tuple[Endpoint, ...]:
    fleet = Fleet()
    specs = (EndpointSpec(name=f"e{i}", ip=ip, port=port) for i, (ip, port) in enumerate(ADDRESSES))
    fleet.replace(specs, 0.0)
    return fleet.endpoints


@pytest.mark.parametrize("entries, expected", NAMED)
def test_endpoints_are_named_by_ip_or_address(entries: list[str], expected: list[int]) -> None:
    endpoints = addresses()
    assert addressed(endpoints, entries) == [endpoints[i] for i in expected]


@pytest.mark.parametrize("entries, expected", NAMED)
def test_the_testing_header_is_a_list_of_addresses(entries: list[str], expected: list[int]) -> None:
    endpoints = addresses()
    cycle = cycle_of(Request(headers={HEADER: ",".join(entries)}))
    assert HeaderBasedTestingFilter().filter(cycle, endpoints) == [endpoints[i] for i in expected]


@pytest.mark.parametrize("headers", [{}, {HEADER: ""}, {HEADER: " , "}], ids=["absent", "empty", "commas"])
def test_without_the_testing_header_nothing_is_kept(headers: dict[str, str]) -> None:
    assert HeaderBasedTestingFilter().filter(cycle_of(Request(headers=headers)), addresses()) == []
