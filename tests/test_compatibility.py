"""docs/compatibility.md tells of everything that upstream has, and of nothing that is not so."""

import re
from pathlib import Path

import pytest

from epp.config.flags import FLAGS, Works
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core import election
from epp.core.directives import OBJECTIVE_HEADERS
from epp.core.flow.tenants import DEFAULT_FLOW, FAIRNESS_HEADERS
from epp.runtime.kubernetes import access
from tests.picking import TYPES
from tools import compatibility, plugin_pages

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")


def test_every_flag_of_upstreams_is_known_and_every_other_one_says_that_it_is_ours() -> None:
    known = {flag.name: flag for flag in FLAGS}
    assert known.keys() >= compatibility.UPSTREAM_FLAGS
    ours = {name for name, flag in known.items() if compatibility.NOT_UPSTREAMS in flag.note}
    assert known.keys() - compatibility.UPSTREAM_FLAGS == ours


def test_what_is_said_to_be_better_of_a_flag_is_of_one_that_works() -> None:
    works = {flag.name for flag in FLAGS if flag.works is Works.YES}
    assert compatibility.BETTER_FLAGS.keys() <= works
    assert all(flag.note for flag in FLAGS if flag.works is not Works.YES)


def test_every_type_of_upstreams_is_offered_or_refused_by_name() -> None:
    assert TYPES.keys() | UNSUPPORTED_TYPES.keys() >= compatibility.UPSTREAM_TYPES
    assert UNSUPPORTED_TYPES.keys() <= compatibility.UPSTREAM_TYPES


def test_a_type_says_whether_it_is_upstreams() -> None:
    found = {each.name: each for each in plugin_pages.plugin_types()}
    assert found.keys() == TYPES.keys()
    ours = {name for name, each in found.items() if each.maturity == "-"}
    assert TYPES.keys() - compatibility.UPSTREAM_TYPES == ours
    assert all(f"`{name}`" in each.facts["Source"] for name, each in found.items() if name not in ours)


def test_every_series_of_upstreams_is_exported_or_has_a_reason() -> None:
    exported = compatibility.exported_names()
    wanted = set(compatibility.UPSTREAM_METRICS)
    assert wanted - exported == compatibility.MISSING_METRICS.keys()
    of_upstream = {name for name in exported if name.startswith("llm_d_epp_")}
    assert of_upstream <= wanted


@pytest.mark.parametrize("table", compatibility.PARTS)
def test_every_row_says_what_it_comes_to(table: str) -> None:
    part = PAGE[PAGE.index(f"<!-- generated: compatibility {table} -->") :]
    rows = re.findall(r"^\| \[?`.*\|$", part[: part.index("<!-- end -->")], re.MULTILINE)
    assert rows
    for row in rows:
        verdict = row.strip("| ").rpartition(" | ")[2]
        assert re.match(r"(same|better: \w|not supported)", verdict), row


def test_the_headers_named_are_spelt_as_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "epp").rglob("*.py"))
    code += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "scorers").glob("*.py"))
    section = PAGE[PAGE.index("## Headers") : PAGE.index("## Answers")]
    rows = [row.strip("| ").partition(" | ") for row in section.splitlines() if row.startswith("| ")][1:]
    supported = " ".join(name for name, _, verdict in rows if not verdict.startswith("not supported"))
    named = re.findall(r"`([\w.-]+)`", supported)
    assert {*FAIRNESS_HEADERS[:1], *OBJECTIVE_HEADERS[:1], "x-request-id", "traceparent"} <= {*named}
    for header in named:
        assert header.lower() in code.lower(), header


@pytest.mark.parametrize(
    "ours, upstreams",
    [
        pytest.param(election.LEASE_SECONDS, 15, id="a lease"),
        pytest.param(election.RENEW_DEADLINE, 10.0, id="a leader without the API"),
        pytest.param(election.RETRY_PERIOD, 2.0, id="between tries"),
        pytest.param(access.KNOWN_SECONDS, 60.0, id="whose a token is"),
        pytest.param(access.ALLOWED_SECONDS, 300.0, id="a yes"),
        pytest.param(access.DENIED_SECONDS, 30.0, id="a no"),
        pytest.param(
            FAIRNESS_HEADERS,
            ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"),
            id="fairness",
        ),
        pytest.param(
            OBJECTIVE_HEADERS,
            ("x-llm-d-inference-objective", "x-gateway-inference-objective"),
            id="objectives",
        ),
        pytest.param(DEFAULT_FLOW, "default-flow", id="who says nothing"),
    ],
)
def test_what_others_count_on_is_upstreams(ours: object, upstreams: object) -> None:
    """controller-runtime's leader election and its filter of metrics, and what clients send."""
    assert ours == upstreams
