"""Configurations as upstream, its guides and KServe ship them: they start unchanged, or are refused by name.

The files in ``upstream/`` are of our own writing, with the plugins and parameters that are shipped.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from tests.picking import TYPES

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "upstream").glob("*.yaml"))}
BASE = {"queue-scorer": 2.0, "kv-cache-utilization-scorer": 2.0, "prefix-cache-scorer": 3.0}


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What a file comes to."""

    scorers: dict[str, float]
    """Of the first profile."""
    filters: tuple[str, ...] = ()
    """Of the first profile, without the lifecycle-filter."""
    picker: str = "max-score-picker"
    profiles: tuple[str, ...] = ("default",)
    handler: str = ""
    producers: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    """What works beside the profiles."""
    told: tuple[str, ...] = ()
    """Fields that a line in the log is about."""


PREFIX, LOAD = "approx-prefix-cache-producer", "inflight-load-producer"
UNDERSTOOD = {
    "head-everything": Understood(
        scorers={"queue-scorer": 2.0, "kv": 2.0, "prefix-cache-scorer": 3.0},
        producers=(PREFIX, "token-producer"),
        more=("flow control",),
    ),
    "head-no-kubernetes": Understood(scorers=BASE, producers=(PREFIX,), more=("discovery",)),
    "v1-no-kubernetes": Understood(scorers={"queue-scorer": 1.0}, more=("discovery",)),
    "gie-v1.5-chart": Understood(scorers=BASE, producers=(PREFIX,)),
    "gie-v1.5-legacy": Understood(
        scorers={"queue-scorer": 1.0, "prefix-cache-scorer": 50.0},
        producers=(PREFIX,),
        told=(
            "plugins[1].parameters.blockSizeTokens",
            "plugins[1].parameters.maxPrefixBlocksToMatch",
            "plugins[1].parameters.lruCapacityPerServer",
            "featureGates",
            "saturationDetector",
        ),
    ),
    "gie-v1.3-thresholds": Understood(
        scorers={}, picker="maxScore", more=("flow control",), told=("data", "", "saturationDetector")
    ),
    "gie-conformance": Understood(
        scorers={},
        filters=("header-based-testing-filter",),
        profiles=("conformance",),
        more=("served header",),
        told=("",),
    ),
    "gie-attribute-reporter": Understood(
        scorers={},
        more=("reports",),
        told=("schedulingProfiles[0].plugins[0]", "schedulingProfiles[0].plugins[1]", ""),
    ),
    "kserve-default": Understood(scorers={**BASE, "no-hit-lru-scorer": 2.0}, producers=(PREFIX,)),
    "kserve-older": Understood(
        scorers={"prefix-cache-scorer": 2.0, "load-aware-scorer": 1.0}, producers=(PREFIX,)
    ),
    "kserve-older-prefill": Understood(
        scorers={"queue-scorer": 1.0},
        filters=("prefill-filter",),
        profiles=("prefill", "decode"),
        handler="PdProfileHandler",
        told=("plugins[0].type", "plugins[6].type", "plugins[4]"),
    ),
    "llm-d-optimized-baseline": Understood(
        scorers={"token-load-scorer": 1.0},
        filters=("prefix-cache-affinity-filter",),
        producers=(LOAD, PREFIX),
    ),
    "llm-d-pd-disaggregation": Understood(
        scorers={"token-load-scorer": 1.0},
        filters=("prefill-filter", "prefix-cache-affinity-filter"),
        profiles=("prefill", "decode"),
        handler="DisaggProfileHandler",
        producers=(PREFIX, LOAD),
    ),
    "llm-d-pd-older": Understood(
        scorers={"prefix-cache-scorer": 3.0, "queue-scorer": 2.0},
        filters=("prefill-filter",),
        profiles=("prefill", "decode"),
        handler="DisaggProfileHandler",
        producers=(PREFIX, LOAD),
        told=("plugins[0].type", "plugins[2].parameters.deciderPluginName"),
    ),
    "llm-d-flow-control": Understood(scorers=BASE, producers=(PREFIX,), more=("flow control",)),
    "router-gpu": Understood(
        scorers={"gpu-scorer": 2.0, "kv-cache-utilization-scorer": 1.0},
        filters=("decode-filter", "gpu-filter"),
        more=("models-data-source", "dcgm-data-source"),
    ),
    "router-probabilistic": Understood(
        scorers={}, picker="random-picker", more=("admitter",), told=("", "saturationDetector")
    ),
    "router-data-parallel": Understood(
        scorers={"prefix-cache-scorer": 2.0},
        filters=("decode-filter",),
        handler="DataParallelProfileHandler",
        producers=(PREFIX,),
    ),
}
REFUSED = {
    "gie-v1.5-chart-latency": 'plugins[1].type: the plugin type "predicted-latency-scorer" is not supported',
    "router-precise-prefix": 'plugins[1].type: the plugin type "precise-prefix-cache-producer" is not',
    "router-burst": 'plugins[0].type: the plugin type "burst-prefix-cache-producer" is not supported',
    "router-peers": "dataLayer.peerDiscovery: is not supported by this version, remove it",
}


def made(name: str) -> Assembly:
    text = FILES[name].read_text(encoding="utf-8")
    return build(load(text, f"{name}.yaml"), TYPES, allow_experimental=True)


def beside(assembly: Assembly) -> tuple[str, ...]:
    """What works beside the profiles, in words."""
    there = {
        "flow control": assembly.flow,
        "discovery": assembly.discovery,
        "admitter": assembly.admitters,
        "reports": assembly.reports,
        "served header": assembly.served_header,
    }
    sides = [f"{type(each).__name__[:-10].lower()}-data-source" for each, _ in assembly.side_sources]
    return (*(word for word, part in there.items() if part), *sides)


def field(warning: str) -> str:
    """The field that a warning is about; empty: the file."""
    _, _, said = warning.partition(": ")
    return said.partition(": ")[0] if re.match(r"[\w.\[\]]+: ", said) else ""


def test_every_file_is_one_or_the_other() -> None:
    assert UNDERSTOOD.keys() | REFUSED.keys() == FILES.keys()
    assert not UNDERSTOOD.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_upstream_ships_is_understood(name: str) -> None:
    assembly, expected = made(name), UNDERSTOOD[name]
    profile = assembly.profile
    found = Understood(
        scorers={scorer: weight for scorer, _, weight in profile.scorers},
        filters=tuple(each for each, _ in profile.filters if each != "lifecycle-filter"),
        picker=profile.picker[0],
        profiles=(profile.name, *(each.name for each in assembly.others)),
        handler=type(assembly.handler).__name__ if assembly.handler else "",
        producers=tuple(each for each, _ in assembly.producers),
        more=beside(assembly),
        told=tuple(map(field, assembly.warnings)),
    )
    assert found == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_here_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(name)
    said = str(raised.value)
    assert re.sub(r"^[\w.-]+\.yaml:\d+: ", "", said).startswith(REFUSED[name]) and "\n" not in said


def test_flow_control_as_the_guide_has_it() -> None:
    flow = made("llm-d-flow-control").flow
    assert flow is not None
    assert {priority: band.max_requests for priority, band in flow.bands.items()} == {100: 500, -10: 50}
    assert (flow.max_bytes, flow.max_requests, flow.detector_name) == (10 << 30, 1000, "concurrency-detector")


def test_the_thresholds_at_the_top_level_are_the_detectors() -> None:
    assembly = made("gie-v1.3-thresholds")
    assert getattr(assembly.detector, "queue_depth_threshold", None) == 10
    assert assembly.flow is not None and assembly.flow.detector == assembly.detector
