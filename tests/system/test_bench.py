"""The parts of `make bench` that need a Kubernetes API, as small as can be. Figures are not judged here."""

import pytest

from bench import pod_events, pools
from tests.system.kube_plane import MISSING, is_possible

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [pytest.mark.timeout(900), pytest.mark.default_driver]


def test_pods_come_and_go_under_load() -> None:
    alone, beside = pod_events.run(times=1, crowd=3)
    assert (alone.crowd, beside.crowd) == (0, 3)
    for turn in (alone, beside):
        assert turn.requests > 0 and 0 < turn.first_pick < pod_events.DEADLINE


def test_two_pools_in_one_process_and_one_of_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "REST_SECONDS", 0.5)
    monkeypatch.setattr(pools, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(pools, "REQUESTS", 50)
    monkeypatch.setattr(pools, "WARM_REQUESTS", 10)
    alone, both = pools.run(2, 2)
    assert [(one.pools, one.pods) for one in (alone, both)] == [(1, 2), (2, 4)]
    for one in (alone, both):
        assert one.start_seconds > 0 and one.rest_cores >= 0 and one.rest_rss_bytes > 10_000_000
        assert len(one.one_cpu_us) == len(one.all_cpu_us) == pools.ROUNDS
