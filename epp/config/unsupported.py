"""Plugin types that upstream has and this version has not, each with the reason.

Place:   asked by epp.config.picker_config for a type that nobody offers.
Rule:    what is known upstream is refused by name, so that nobody looks for a mistake of his own.
Source:  llm-d-router v0.10 and its main branch of August 2026.
"""

from collections.abc import Mapping


def _for(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


UNSUPPORTED_TYPES: Mapping[str, str] = {
    **_for(
        "there is no latency predictor",
        """
        latency-scorer latency-slo-admitter predicted-latency-producer predicted-latency-scorer
        slo-headroom-tier-filter
        """,
    ),
    **_for(
        "what engines say about their caches is not listened to; approx-prefix-cache-producer with"
        " prefix-cache-scorer estimates it",
        "precise-prefix-cache-producer precise-prefix-cache-scorer",
    ),
    **_for(
        "caches of encoded images are not followed", "mm-embeddings-cache-producer mm-embeddings-cache-scorer"
    ),
    **_for("requests are not placed in bursts", "burst-prefix-cache-producer"),
    **_for("caches are not copied between servers", "p2p-source-producer"),
    **_for(
        "a picker serves one cluster",
        """
        multicluster-approx-prefix-cache-producer multicluster-file-discovery
        multicluster-kv-cache-utilization-scorer multicluster-metrics-data-source
        multicluster-metrics-extractor multicluster-prefix-cache-scorer multicluster-queue-scorer
        multicluster-session-affinity-filter
        """,
    ),
    **_for("rollouts in several roles are not followed", "disaggregatedset-rollout-screener"),
    **_for(
        "requests of this API pass through without being read, write passthrough-parser",
        "vertexai-parser vllmgrpc-parser",
    ),
}
