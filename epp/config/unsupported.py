"""Plugin types that upstream has and this version has not, each with the reason.

Place:   asked by epp.config.picker_config for a type that nobody offers.
Rule:    what is known upstream is refused by name, so that nobody looks for a mistake of his own.
Source:  llm-d-router v0.10 and its main branch of August 2026.
"""

from collections.abc import Mapping


def _for(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


UNSUPPORTED_TYPES: Mapping[str, str] = {
    **_for("requests are not turned away at random", "probabilistic-admitter"),
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
    **_for("deprecated upstream, use label-selector-filter", "by-label by-label-selector"),
    **_for(
        "deprecated upstream, use disagg-profile-handler, which sets the headers as well",
        "disagg-headers-handler pd-profile-handler prefill-header-handler",
    ),
    **_for("deprecated upstream, use token-producer", "tokenizer"),
    **_for("rollouts in several roles are not followed", "disaggregatedset-rollout-screener"),
    **_for("the GPUs' own exporters are not read", "dcgm-data-source dcgm-extractor"),
    **_for("which models a server has is not read", "models-data-extractor models-data-source"),
    **_for(
        "changes of endpoints are always followed, leave it out",
        "endpoint-notification-source k8s-notification-source",
    ),
    **_for("no metadata is made of the usage", "request-attribute-reporter"),
    **_for("no header tells who served", "destination-endpoint-served-verifier"),
    **_for(
        "requests of this API pass through without being read, write passthrough-parser",
        "sglanghttp-parser vertexai-parser vllmgrpc-parser",
    ),
}
