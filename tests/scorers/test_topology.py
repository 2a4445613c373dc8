"""Near to the one picked before: the topology plugins, against the table of their levels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec
from epp.core.scoring import Cycle
from epp.core.topology import Nearness, nearness
from scorers.topology_affinity_filter import TopologyAffinityFilter
from scorers.topology_affinity_scorer import TopologyAffinityScorer
from scorers.topology_extractor import TopologyExtractor
from tests.picking import cycle_of

EXTRACTOR = {"topology-extractor": TopologyExtractor()}
SCORER = TopologyAffinityScorer().joined(EXTRACTOR, ["default"])


def place(host: str = "", rack: str = "", zone: str = "", region: str = "") -> dict[str, str]:
    labels = zip(TopologyExtractor().labels, (host, rack, zone, region), strict=True)
    return {label: value for label, value in labels if value}


def at(labels: Mapping[str, str]) -> Endpoint:
    return Endpoint(EndpointSpec(name="e", ip="10.0.0.1", port=1, labels=labels))


HERE = place("h1", "r1", "z1", "g1")
FLEET = (
    at(HERE),
    at(place("h2", "r1", "z1", "g1")),
    at(place("h3", "r2", "z1", "g1")),
    at(place("h4", "r3", "z2", "g1")),
    at(place("h5", "r4", "z3", "g2")),
    at({}),
)


def after(labels: Mapping[str, str] | None) -> Cycle:
    """A request for which an earlier profile has picked an endpoint with these labels."""
    cycle = cycle_of()
    if labels is not None:
        cycle.picks = {"encode": (), "decode": (at(labels),)}
    return cycle


@pytest.mark.parametrize(
    "peer, expected",
    [
        pytest.param(HERE, [1.0, 0.2, 0.05, 0.02, 0.0, 0.0], id="all-levels"),
        pytest.param(place(zone="z2", region="g1"), [0.02, 0.02, 0.02, 0.05, 0.0, 0.0], id="some-levels"),
        pytest.param(place(host="elsewhere"), [0.0] * 6, id="nothing-in-common"),
        pytest.param({}, [None] * 6, id="it-stands-nobody-knows-where"),
        pytest.param(None, [None] * 6, id="nobody-was-picked"),
    ],
)
def test_the_nearer_the_better(peer: Mapping[str, str] | None, expected: list[float | None]) -> None:
    assert SCORER.score(after(peer), FLEET) == expected


@pytest.mark.parametrize(
    "least, peer, kept",
    [
        pytest.param("host", HERE, [0], id="host"),
        pytest.param("rack", HERE, [0, 1], id="rack"),
        pytest.param("zone", HERE, [0, 1, 2], id="zone"),
        pytest.param("region", HERE, [0, 1, 2, 3], id="region"),
        pytest.param("host", place("h9", "r1"), [0, 1, 2, 3, 4, 5], id="nobody-is-near-enough"),
        pytest.param("host", {}, [0, 1, 2, 3, 4, 5], id="it-stands-nobody-knows-where"),
        pytest.param("host", None, [0, 1, 2, 3, 4, 5], id="nobody-was-picked"),
    ],
)
def test_who_is_near_enough_is_kept(least: Any, peer: Mapping[str, str] | None, kept: list[int]) -> None:
    plugin = TopologyAffinityFilter(min_affinity=least).joined(EXTRACTOR, ["default"])
    assert list(plugin.filter(after(peer), FLEET)) == [FLEET[i] for i in kept]


def test_the_labels_are_those_that_the_extractor_names() -> None:
    slices = TopologyExtractor(hostname="slice")
    scorer = replace(TopologyAffinityScorer(topology_producer_name="slices")).joined({"slices": slices}, [])
    assert scorer.score(after({"slice": "1"}), [at({"slice": "1"}), at({"slice": "2"})]) == [1.0, 0.0]


PLACES = st.builds(place, *(st.sampled_from(["", "a", "b"]) for _ in range(4)))


@given(one=PLACES, other=PLACES)
def test_nearness_is_the_closest_in_common_and_the_same_from_both_sides(
    one: dict[str, str], other: dict[str, str]
) -> None:
    labels = TopologyExtractor().labels
    found = nearness(one, other, labels)
    assert found == nearness(other, one, labels)
    common = [i for i, label in enumerate(labels) if one.get(label) and one.get(label) == other.get(label)]
    assert found == (Nearness(common[0]) if common else None)


def test_a_label_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="rack: must not be empty"):
        TopologyExtractor(rack="")
