"""The dashboard and the alert rules ask for what the process really exports; docs/metrics.md names all of it.

What there is comes from a real process under traffic, with flow control and a profile handler; only what a
Kubernetes API would have to tell comes from the parts that would tell it.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.rig.picker import Picker
from bench.rig.process import http_get, wait_until
from epp.runtime.metrics import Histograms
from epp.wire.pb import ext_proc_pb2 as pb
from tests.http_pages import Page, served
from tests.system.talk import (
    channel_to,
    chat,
    converse,
    reachability,
    request_body,
    request_headers,
    response_body,
    response_headers,
)
from tools.exported import every_family, families_of_controller

ROOT = Path(__file__).parents[1]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.yaml"))
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

OF_PROMETHEUS = frozenset({"job", "instance"})
"""Labels that a scrape adds."""
NEEDS_KUBERNETES = ("fleet_epp_kubernetes_", "fleet_epp_pool_findings", "fleet_epp_leader")
RARE = frozenset(  # what this picker's traffic does not bring about
    {
        "llm_d_epp_model_rewrite_decisions_total",  # a rewrite object
        "llm_d_epp_flow_control_global_capacity_utilization_requests",  # a limit over all bands
    }
)

Exported = Mapping[str, frozenset[str]]
"""Labels by name."""

CONFIG = {
    "featureGates": ["flowControl"],
    "flowControl": {"defaultPriorityBand": {"fairnessPolicyRef": "program-aware-fairness"}},
    "plugins": [
        {"type": "queue-scorer"},
        {"type": "prefix-cache-scorer"},
        {"type": "max-score-picker"},
        {"type": "program-aware-fairness"},
        {"type": "always-disagg-pd-decider"},
        {
            "type": "disagg-profile-handler",
            "parameters": {"deciders": {"prefill": "always-disagg-pd-decider"}},
        },
    ],
    "schedulingProfiles": [
        {
            "name": name,
            "plugins": [
                {"pluginRef": "queue-scorer"},
                {"pluginRef": "prefix-cache-scorer"},
                {"pluginRef": "max-score-picker"},
            ],
        }
        for name in ("decode", "prefill")
    ],
}


class Engine(Page):
    """As much of vLLM as the picker looks at."""

    def got(self) -> bytes:
        return b"vllm:num_requests_waiting 1\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5\n"


def traffic(picker: Picker) -> None:
    """A good answer, a streamed one, an error, a refusal."""
    cached = b'"prompt_tokens_details": {"cached_tokens": 3}'
    usage = b'"usage": {"prompt_tokens": 9, "completion_tokens": 4, ' + cached + b"}"
    token = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    plain = (
        request_headers(),
        request_body(chat("a long prompt " * 100)),
        response_headers(("content-type", b"application/json")),
        response_body(b"{" + usage + b"}"),
    )
    streamed = (
        request_headers(),
        request_body(chat("a long prompt " * 100, stream=True)),
        response_headers(("content-type", b"text/event-stream")),
        *(response_body(token, ended=False) for _ in range(3)),
        response_body(b'data: {"choices": [], ' + usage + b"}\n\ndata: [DONE]\n\n"),
    )
    failed = (request_headers(), request_body(chat()), response_headers(status=b"500"), response_body(b"no"))
    with channel_to(picker) as channel:
        for messages in (streamed, plain, failed, (request_headers(), request_body(b"{"))):
            assert list(converse(channel, messages))


@contextmanager
def under_way(picker: Picker) -> Iterator[None]:
    """Meanwhile a request is at its server."""
    over = threading.Event()

    def messages() -> Iterator[pb.ProcessingRequest]:
        yield request_headers()
        yield request_body(chat())
        over.wait()

    with channel_to(picker) as channel:
        answers = converse(channel, messages())
        next(answers)
        try:
            yield
        finally:
            over.set()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What a real process shows after some requests, and the few things that only Kubernetes brings."""
    with served(Engine) as address:
        picker = Picker(
            logs=tmp_path_factory.mktemp("exported"),
            endpoints={"a": address},
            config=CONFIG,
            flags=["--enable-grpc-stream-metrics"],
            tls=False,
        )
        with picker:
            wait_until(lambda: reachability(picker) == {"a": "up"}, what="the engine seen")

            def counted() -> bool:  # of the streamed answers one in 50 ms is measured
                traffic(picker)
                return "llm_d_epp_request_streaming_itl_seconds_bucket" in samples(picker)

            wait_until(counted, what="a streamed request measured")
            with under_way(picker):
                found = samples(picker)
    for family in every_family():
        if family.name.startswith(NEEDS_KUBERNETES):
            assert not isinstance(family, Histograms)
            found[family.name] = frozenset(family.labels)
    return found


@pytest.fixture(scope="module")
def everything(exported: Exported) -> Exported:
    """The same with what a controller shows, which has no cluster here."""
    found = dict(exported)
    for family in families_of_controller():
        names = [f"{family.name}_{end}" for end in ("bucket", "sum", "count")]
        for name in names if isinstance(family, Histograms) else [family.name]:
            found[name] = frozenset(family.labels) | ({"le"} if name.endswith("_bucket") else set())
    return found


def samples(picker: Picker) -> dict[str, frozenset[str]]:
    status, page = http_get(f"{picker.metrics_url}/metrics")
    assert status == 200
    heads = re.findall(rb"^# (?:HELP|TYPE) \w+", page, re.MULTILINE)
    assert len(heads) == len(set(heads)), "each family once"
    return {
        sample.name: frozenset(sample.labels)
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


# --- PromQL, as far as it is needed: which series with which labels


WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\$?[a-zA-Z_][\w:]*|[^\s\w]|\d[\w.]*')
KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset"})
LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


def asked(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The series that an expression reads, each with the labels it selects by; the labels it groups by."""
    words = WORD.findall(re.sub(r"\[[^]]*\]", "", expression))
    series: dict[str, set[str]] = {}
    grouped: set[str] = set()
    at = 0
    while at < len(words):
        word, following = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 1
        if word in LISTS:
            end = words.index(")", at)
            grouped |= {each for each in words[at + 1 : end] if each != ","}
            at = end + 1
        elif word[0].isalpha() and following not in {"(", "by", "without"} and word not in KEYWORDS:
            labels = series.setdefault(word, set())
            if following == "{":
                end = words.index("}", at)
                inside = words[at + 1 : end]
                labels |= {
                    each for each, then in pairwise(inside) if each.isidentifier() and then in {"=", "!"}
                }
                at = end + 1
    return series, grouped


@pytest.mark.parametrize(
    "expression, series, grouped",
    [
        ("up", {"up": set()}, set()),
        ('sum by (a, b) (rate(x_total{c="d", e=~"f,g"}[5m]))', {"x_total": {"c", "e"}}, {"a", "b"}),
        ("max(x) / on (a) group_left (b) y > 0.5", {"x": set(), "y": set()}, {"a", "b"}),
        ('x{a!="}"} unless on (b) y offset 5m', {"x": {"a"}, "y": set()}, {"b"}),
        (
            "histogram_quantile(0.9, sum by (le) (rate(h_bucket[$__rate_interval])))",
            {"h_bucket": set()},
            {"le"},
        ),
    ],
)
def test_expressions_are_understood(expression: str, series: dict[str, set[str]], grouped: set[str]) -> None:
    assert asked(expression) == (series, grouped)


def wrong(expression: str, exported: Exported) -> list[str]:
    """What it asks for that is not there."""
    series, grouped = asked(expression)
    found = [f"{name} is not exported" for name in series if name not in exported]
    known = {name: exported.get(name, frozenset()) | OF_PROMETHEUS for name in series}
    found += [f"{name} has no label {label}" for name in series for label in series[name] - known[name]]
    everywhere = frozenset[str]().union(*known.values())
    return found + [f"nothing has a label {label}" for label in grouped - everywhere]


def test_what_is_not_there_is_noticed() -> None:
    there = {"x": frozenset({"a"})}
    assert wrong('sum by (a) (x{a="1"})', there) == []
    assert wrong('sum by (b) (x{c="1"}) + y', there) == [
        "y is not exported",
        "x has no label c",
        "nothing has a label b",
    ]


# --- the dashboard


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_asks_for_what_is_there(path: Path, everything: Exported) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel.get("targets", ())]
    assert len(expressions) > 50
    assert [fault for each in expressions for fault in wrong(each, everything)] == []
    legends = [
        (target["expr"], label)
        for panel in panels(dashboard)
        for target in panel.get("targets", ())
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    ]
    for expression, label in legends:
        series, grouped = asked(expression)
        kept = grouped or frozenset[str]().union(OF_PROMETHEUS, *(everything[name] for name in series))
        assert label in kept, f"{expression} has no {label} to show"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_can_be_imported(path: Path, everything: Exported) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    every = list(panels(dashboard))
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used <= variables.keys()
    for each in variables.values():
        if each["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", each["definition"])
            assert found is not None
            assert found[2] in everything[found[1]] | OF_PROMETHEUS


# --- the alert rules


def rules() -> list[Any]:
    return [
        pytest.param(rule, id=rule["alert"])
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


@pytest.mark.parametrize("rule", rules())
def test_an_alert_asks_for_what_is_there(rule: Mapping[str, Any], everything: Exported) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert wrong(rule["expr"], everything) == []
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
    series, grouped = asked(rule["expr"])
    kept = grouped - {"le"} or frozenset[str]().union(*(everything[name] for name in series))
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= kept | exported_labels(
        rule, everything
    )


def exported_labels(rule: Mapping[str, Any], exported: Exported) -> frozenset[str]:
    """Those of the first series, where nothing is aggregated."""
    if re.match(r"\s*(sum|max|min|avg|absent|histogram_quantile|increase)\b", rule["expr"]):
        return frozenset()
    return exported[next(iter(asked(rule["expr"])[0]))]


@pytest.mark.parametrize("rule", rules())
def test_an_alert_says_where_to_read_on(rule: Mapping[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor) == ("docs/metrics.md", rule["alert"].lower())
    found = re.search(rf"^### {rule['alert']}\n\n(.+)$", PAGE, re.MULTILINE)
    assert found is not None and len(found[1]) > 40


def test_every_runbook_entry_is_of_an_alert() -> None:
    named = set(re.findall(r"^### (Epp\w+)$", PAGE, re.MULTILINE))
    assert named == {rule.values[0]["alert"] for rule in rules()}


# --- the page


def test_every_exported_series_is_in_the_table_and_the_other_way_round(exported: Exported) -> None:
    table = PAGE.partition("<!-- generated: metrics -->")[2].partition("<!-- end -->")[0]
    documented = set(re.findall(r"`((?:llm_d|inference|fleet_epp)_\w+)`", table)) - {
        "inference_pool"
    }  # a label
    families = list(every_family())
    histograms = {family.name for family in families if isinstance(family, Histograms)}
    shown = set()
    for name in exported:
        whole = re.sub(r"_(bucket|sum|count)$", "", name)
        shown.add(whole if whole in histograms else name)
    assert {name for name in shown - documented if not name.startswith("process_")} == set()
    rare = {family.help for family in families if family.name in RARE}
    assert documented - shown == {family.name for family in families if family.help in rare}
