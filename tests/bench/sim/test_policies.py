"""The competitors are configurations that work, and know what they are meant to know."""

from pathlib import Path

import pytest

from bench.sim.play import assembled
from bench.sim.policies import OURS, POLICIES, UPSTREAM, find_policy
from epp.config.decode import ConfigError

BLIND = {"bounded-load-hash", "power-of-two", "least-request", "round-robin", "random"}
"""Those that do not look at what is cached."""


@pytest.mark.parametrize("name", POLICIES)
def test_whoever_looks_at_caches_has_an_index_of_them(name: str) -> None:
    producers = [each for each, _ in assembled(POLICIES[name].config, name).producers]
    assert ("approx-prefix-cache-producer" in producers) is (name not in BLIND)


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - BLIND))
def test_scorers_have_their_published_weights(name: str) -> None:
    weights = {scorer: weight for scorer, _, weight in assembled(POLICIES[name].config, name).profile.scorers}
    wanted = {
        UPSTREAM: {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3},
        "no-hit-lru": {
            "prefix-cache-scorer": 3,
            "queue-scorer": 2,
            "kv-cache-utilization-scorer": 2,
            "no-hit-lru-scorer": 2,
        },
    }
    assert weights == wanted.get(name, dict.fromkeys(weights, 1.0)) and weights


def test_a_file_is_a_policy_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(POLICIES[OURS].config)
    assert find_policy(str(path)).name == "mine" and find_policy(str(path)).config == POLICIES[OURS].config
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        find_policy(str(tmp_path / "none.yaml"))
