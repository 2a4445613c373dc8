"""Every series that picker and controller can have on their metrics pages, from the parts that tell them.

Used by tools/document-reference for the tables of docs/metrics.md, and by tests.
"""

import datetime as dt
import functools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from epp.config.cluster.assignments import Wish
from epp.config.picker_config import build, load
from epp.controller.metrics import ControllerMetrics
from epp.core.budget import Budget
from epp.core.directives import Directives
from epp.core.fleet import Fleet
from epp.core.flow.control import FlowControl
from epp.core.rejection import NO_CANDIDATES
from epp.runtime.discovery import DiscoverySettings, FileDiscovery
from epp.runtime.flow_metrics import FlowMetrics
from epp.runtime.kubernetes.api import KubernetesApi
from epp.runtime.kubernetes.discovery import KubernetesDiscovery, KubernetesSettings
from epp.runtime.kubernetes.lease import Leadership
from epp.runtime.kubernetes.namespace import Namespaces
from epp.runtime.kubernetes.references import References
from epp.runtime.measuring import Measuring
from epp.runtime.metrics import (
    BufferMetrics,
    Family,
    FleetMetrics,
    Histograms,
    Metrics,
    ScrapeMetrics,
    Single,
)
from epp.runtime.plugins import load_types
from epp.runtime.probe import ScrapeStats
from epp.runtime.transitions import Transitions

REQUEST = ("model_name", "target_model_name", "fairness_id", "priority")
UNITS = {
    "seconds": "s",
    "milliseconds": "ms",
    "bytes": "bytes",
    "tokens": "tokens",
    "ratio": "0 to 1",
    "utilization": "0 to 1",
}
QUEUES = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins: [{type: program-aware-fairness}]
flowControl: {defaultPriorityBand: {fairnessPolicyRef: program-aware-fairness}}
"""
"""With the policy that has series of its own."""


def every_family() -> Iterator[Family]:
    """Names, labels and meanings; hardly any has a value."""
    page = Metrics(times_streams=True)
    page.add(
        FleetMetrics(list, clock=float),
        Transitions(),
        Measuring(page.requests, float),
        ScrapeMetrics(ScrapeStats()),
        BufferMetrics(Budget(0)),
        Single(
            "fleet_epp_log_lines_lost_total",
            "Request lines that the log did not take.",
            float,
            kind="counter",
        ),
        _flow_metrics(),
        FileDiscovery(Path(), DiscoverySettings(), lambda _: None, clock=float),
        *_of_kubernetes(),
    )
    return page.families()


def families_of_controller() -> Iterator[Family]:
    """Its own; it has those of the Kubernetes API and of the election as a picker has them."""
    yield from ControllerMetrics(Counter()).families()


def _flow_metrics() -> FlowMetrics:
    found = FlowMetrics("", float)
    settings = build(load(QUEUES, "queues"), load_types(), allow_experimental=True).flow
    assert settings is not None
    control = FlowControl(
        settings, Fleet(), lambda *_: NO_CANDIDATES, watcher=found, guard=lambda count: count()
    )
    found.watch(control)
    return found


def _of_kubernetes() -> Iterator[Any]:
    api = KubernetesApi({})
    namespaces = Namespaces(api, group="", clock=float, chance=random.Random())
    yield namespaces
    yield KubernetesDiscovery(
        *(namespaces.at(""), KubernetesSettings(pool=""), lambda _: None),
        title="",
        directives=Directives(),
        voice=namespaces.voice,
        clock=float,
        unix_clock=float,
    )
    yield References(namespaces, [Wish(namespace="", name="", service="", port=None)], {})
    yield Leadership(
        api,
        namespace="",
        name="",
        identity="",
        clock=float,
        today=lambda: dt.datetime.now(dt.UTC),
        chance=random.Random(),
    )


def table() -> str:
    """Of the picker."""
    return _table(every_family())


def table_of_controller() -> str:
    """The same of the controller."""
    return _table(families_of_controller())


def _table(families: Iterable[Family]) -> str:
    """One row for each; those that say the same share it."""
    rows: dict[str, list[Family]] = {}
    for family in families:
        rows.setdefault(family.help, []).append(family)
    lines = [
        "| Series | Older name | Type | Labels | Unit | Meaning |",
        "|---|---|---|---|---|---|",
    ]
    for help_text, (family, *older) in rows.items():
        kind = "histogram" if isinstance(family, Histograms) else family.kind
        is_of_request = family.labels[: len(REQUEST)] == REQUEST
        own = family.labels[len(REQUEST) :] if is_of_request else family.labels
        labels = ", ".join([*(["*request*"] if is_of_request else []), *(f"`{label}`" for label in own)])
        names = ", ".join(map(functools.partial(_older, family), older))
        meaning = (help_text[0].lower() + help_text[1:]).rstrip(".")
        lines.append(f"| `{family.name}` | {names} | {kind} | {labels} | {_unit(family)} | {meaning} |")
    return "\n".join(lines)


def _older(family: Family, older: Family) -> str:
    """Its name, and its labels where they are others."""
    labels = f" ({', '.join(older.labels)})" if older.labels != family.labels else ""
    return f"`{older.name}`{labels}"


def _unit(family: Family) -> str:
    """As the name says it, in Prometheus' manner; without such an end it is a count."""
    name = family.name.removesuffix("_total").removesuffix("_limit")
    if "capacity_utilization" in name or name.endswith(("pool_saturation", "index")):
        return UNITS["ratio"]
    return UNITS.get(name.rpartition("_")[2], "")
