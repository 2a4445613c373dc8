"""Gauges of real servers while load comes and goes: what is read follows each of them at every moment.

The recordings hold numbers, not pages; each number is put where the same server's page has it.
"""

import json
import re

import pytest

from epp.core.engines import ENGINES, read_load
from tests.captures import FOLDER, capture

RECORDED = {
    # the gauges; a page of the same server; what the engine calls waiting, running and the cache's fill
    "llama-server/busy-gauges.json": (
        *("llama-server/GET_metrics.txt", "llamacpp"),
        ("requests_deferred", "requests_processing", None),
    ),
    "vllm/main/busy-gauges.json": (
        *("vllm/main/metrics-after-work.txt", "vllm"),
        ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"),
    ),
    "vllm/load/busy-gauges.json": (
        *("vllm/load/metrics-busy.txt", "vllm"),
        ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"),
    ),
}
Moments = list[tuple[float, dict[str, float | str]]]


def moments(name: str) -> Moments:
    """Seconds, and every gauge then."""
    return [(at, gauges) for at, gauges in json.loads((FOLDER / name).read_bytes())]


def page_with(page: bytes, engine: str, gauges: dict[str, float | str]) -> bytes:
    """The page as it was when the gauges were these."""
    for name, value in gauges.items():
        line = rf"^({engine}:{name}(?:\{{[^}}]*\}})?) \S+$".encode()
        page, found = re.subn(line, rb"\g<1> " + str(value).encode(), page, flags=re.MULTILINE)
        assert found == (name != "scrape_s"), name  # that one is the recorder's own
    return page


def test_every_recording_of_gauges_is_a_case() -> None:
    assert set(RECORDED) == {str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/busy-gauges.json")}


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_read_follows_the_gauges(name: str) -> None:
    page, engine, (waiting, running, kv_usage) = RECORDED[name]
    recorded = capture(page)
    for at, gauges in moments(name):
        shown = page_with(recorded.body, engine, gauges)
        load = read_load(ENGINES[engine], shown, recorded.headers, 1795165040.0)
        assert load.waiting == float(gauges[waiting]), at
        assert load.running == float(gauges[running]), at
        assert load.kv_usage == (None if kv_usage is None else gauges[kv_usage]), at
