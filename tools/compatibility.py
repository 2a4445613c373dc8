"""The tables of docs/compatibility.md: what upstream has, and what of it is here.

Used by tools/document-reference and tests. The lists are upstream's (llm-d-router v0.10 and its main branch
of August 2026, Gateway API Inference Extension v1.5.0); what becomes of each comes from the code.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from epp.config.flags import FLAGS, Flag, Works
from epp.config.unsupported import UNSUPPORTED_TYPES
from tools import exported
from tools.plugin_pages import plugin_types

# --- flags -------------------------------------------------------------------------------------------

UPSTREAM_FLAGS = frozenset(
    """
    allow-experimental-plugins cache-info-metric cert-path config-file config-text
    disable-endpoint-subset-filter drain-timeout emit-endpoint-scores enable-cert-reload
    enable-grpc-stream-metrics enable-pprof endpoint-selector endpoint-target-ports grpc-health-port
    grpc-max-recv-msg-size grpc-max-send-msg-size grpc-port ha-enable-leader-election health-checking
    kv-cache-usage-percentage-metric lora-info-metric metrics-cert-dir metrics-client-ca-file
    metrics-endpoint-auth metrics-port metrics-staleness-threshold
    model-server-metrics-https-insecure-skip-verify model-server-metrics-path model-server-metrics-port
    model-server-metrics-scheme pool-group pool-name pool-namespace refresh-metrics-interval
    refresh-prometheus-metrics-interval secure-serving tls-cipher-suites tls-min-version
    total-queued-requests-metric total-running-requests-metric tracing v zap-devel zap-encoder zap-log-level
    zap-stacktrace-level zap-time-encoding
    """.split()
)
NOT_UPSTREAMS = "not an upstream flag"
BETTER_FLAGS: Mapping[str, str] = {
    "cert-path": "without it the self-signed certificate is one of an elliptic curve, made at each start",
    "config-file": "a mistake is one line with file, line, field and remedy",
    "config-text": "as the file's",
    "drain-timeout": "elsewhere than in Kubernetes as well",
    "enable-cert-reload": "SIGHUP does it as well",
    "endpoint-selector": "a whole label selector, not only `k=v`",
    "grpc-max-recv-msg-size": "64 MiB and headers by default, in place of 4 MiB",
    "metrics-staleness-threshold": "choosing follows it as well",
    "pool-group": "InferencePools of v1alpha2 as well",
    "refresh-metrics-interval": "servers at rest are read less often",
    "tracing": "prints no spans where no exporter is set",
}


def _flag(flag: Flag) -> str:
    if flag.name not in UPSTREAM_FLAGS:
        return "ours"
    if flag.works is Works.IDLE:
        return f"not supported, accepted with a line in the log: {flag.note}"
    return f"better: {BETTER_FLAGS[flag.name]}" if flag.name in BETTER_FLAGS else "same"


def flags() -> str:
    """Upstream's flags; ours are in docs/flags.md."""
    rows = [(f"`--{each.name}`", _flag(each)) for each in FLAGS if each.name in UPSTREAM_FLAGS]
    own = ", ".join(f"`--{each.name}`" for each in FLAGS if each.name not in UPSTREAM_FLAGS)
    return f"{_table(('Flag', ''), rows)}\n\nOurs: {own} ([flags](flags.md))."


# --- plugins -----------------------------------------------------------------------------------------

UPSTREAM_TYPES = frozenset(
    """
    active-request-scorer agent-identity always-disagg-multimodal-decider always-disagg-pd-decider
    anthropic-parser approx-prefix-cache-producer burst-prefix-cache-producer by-label by-label-selector
    concurrency-detector context-length-aware core-metrics-extractor data-parallel-profile-handler
    dcgm-data-source dcgm-extractor decode-filter destination-endpoint-served-verifier disagg-headers-handler
    disagg-profile-handler disaggregatedset-rollout-screener edf-ordering-policy encode-filter
    endpoint-attribute-filter endpoint-attribute-scorer endpoint-notification-source fcfs-ordering-policy
    file-discovery global-strict-fairness-policy header-based-testing-filter header-label-affinity-scorer
    header-profile-handler inflight-load-producer k8s-notification-source kv-cache-utilization-scorer
    label-selector-filter latency-scorer latency-slo-admitter load-aware-scorer lora-affinity-scorer
    max-score-picker metrics-data-source mm-embeddings-cache-producer mm-embeddings-cache-scorer
    models-data-extractor models-data-source multicluster-approx-prefix-cache-producer
    multicluster-file-discovery multicluster-kv-cache-utilization-scorer multicluster-metrics-data-source
    multicluster-metrics-extractor multicluster-prefix-cache-scorer multicluster-queue-scorer
    multicluster-session-affinity-filter no-hit-lru-scorer openai-parser p2p-source-producer
    passthrough-parser pd-profile-handler precise-prefix-cache-producer precise-prefix-cache-scorer
    predicted-latency-producer predicted-latency-scorer prefill-filter prefill-header-handler
    prefix-based-pd-decider prefix-cache-affinity-filter prefix-cache-scorer priority-holdback-policy
    priority-then-time-eviction-order-policy probabilistic-admitter program-aware-fairness queue-scorer
    random-picker request-attribute-reporter round-robin-fairness-policy running-requests-size-scorer
    session-affinity-filter session-affinity-scorer session-id-producer sglanghttp-parser
    sheddable-eviction-filter single-profile-handler slo-deadline-ordering-policy slo-headroom-tier-filter
    soft-reflective-ceiling-policy static-usage-limit-policy token-load-scorer token-producer tokenizer
    topology-affinity-filter topology-affinity-scorer topology-extractor utilization-detector
    utilization-filter vertexai-parser vllmgrpc-parser vllmhttp-parser weighted-random-picker
    """.split()
)


def plugins() -> str:
    """Upstream's types."""
    known = {each.name: each for each in plugin_types()}
    rows = []
    for name in sorted(UPSTREAM_TYPES):
        if name in known:
            rows.append((f"[`{name}`](plugins/{name}.md)", known[name].maturity, known[name].compared))
        else:
            rows.append((f"`{name}`", "", f"not supported, refused: {UNSUPPORTED_TYPES[name]}"))
    own = ", ".join(f"[`{name}`](plugins/{name}.md)" for name in known if name not in UPSTREAM_TYPES)
    return f"{_table(('Type', 'Upstream', ''), rows)}\n\nOurs: {own}."


# --- metrics -----------------------------------------------------------------------------------------

UPSTREAM_METRICS: Sequence[str] = tuple(
    f"llm_d_epp_{name}"
    for name in """
    request_total request_error_total scheduler_attempts_total model_rewrite_decisions_total
    datalayer_poll_errors_total datalayer_extract_errors_total disagg_decision_total pd_decision_total
    flow_control_requests_total extproc_streams_total plugin_data_scope_violations_total
    encoder_cache_queries_total encoder_cache_hits_total request_slo_violation_total
    request_duration_seconds request_size_bytes response_size_bytes request_input_tokens
    request_output_tokens request_cached_tokens request_ntpot_seconds request_ttft_seconds
    request_streaming_tpot_seconds request_streaming_itl_seconds scheduler_e2e_duration_seconds
    plugin_duration_seconds request_processing_duration_seconds response_processing_duration_seconds
    prefix_indexer_hit_ratio prefix_indexer_hit_bytes flow_control_request_queue_duration_seconds
    flow_control_dispatch_cycle_duration_seconds flow_control_request_enqueue_duration_seconds
    extproc_stream_duration_seconds request_predicted_ttft_seconds request_predicted_tpot_seconds
    request_ttft_prediction_duration_seconds request_tpot_prediction_duration_seconds request_running
    average_kv_cache_utilization average_queue_size average_running_requests std_dev_kv_cache_utilization
    std_dev_queue_size std_dev_running_requests ready_endpoints per_endpoint_queue_size info
    prefix_indexer_size flow_control_queue_size flow_control_queue_bytes flow_control_pool_saturation
    flow_control_stale_endpoints flow_control_capacity_utilization_requests
    flow_control_capacity_utilization_bytes flow_control_global_capacity_utilization_requests
    flow_control_global_capacity_utilization_bytes inflight_requests inflight_tokens
    extproc_streams_inflight program_aware_jains_fairness_index program_aware_avg_wait_time_milliseconds
    program_aware_attained_service_tokens
    """.split()
)
_NO_PREDICTOR = "there is no latency predictor"
MISSING_METRICS: Mapping[str, str] = {
    "llm_d_epp_plugin_data_scope_violations_total": "a plugin of one's own cannot overstep",
    "llm_d_epp_encoder_cache_queries_total": "caches of encoded images are not followed",
    "llm_d_epp_encoder_cache_hits_total": "caches of encoded images are not followed",
    "llm_d_epp_request_slo_violation_total": _NO_PREDICTOR,
    "llm_d_epp_request_predicted_ttft_seconds": _NO_PREDICTOR,
    "llm_d_epp_request_predicted_tpot_seconds": _NO_PREDICTOR,
    "llm_d_epp_request_ttft_prediction_duration_seconds": _NO_PREDICTOR,
    "llm_d_epp_request_tpot_prediction_duration_seconds": _NO_PREDICTOR,
}

_OF_A_SAMPLE = "of a sample of the requests"
NARROWER_METRICS: Mapping[str, str] = {
    "llm_d_epp_request_streaming_itl_seconds": _OF_A_SAMPLE,
    "llm_d_epp_plugin_duration_seconds": _OF_A_SAMPLE,
    "llm_d_epp_response_processing_duration_seconds": _OF_A_SAMPLE,
    "llm_d_epp_flow_control_pool_saturation": 'of one stage, `stage="effective"`',
}


def exported_names() -> frozenset[str]:
    """All series that the process can have."""
    return frozenset(family.name for family in exported.every_family())


def metrics() -> str:
    """Upstream's series; those that are here are explained in docs/metrics.md."""
    here = exported_names()
    rows = [
        (f"`{name}`", _same(name) if name in here else f"not supported: {MISSING_METRICS[name]}")
        for name in UPSTREAM_METRICS
    ]
    return _table(("Series", ""), rows)


def _same(series: str) -> str:
    return f"same, {NARROWER_METRICS[series]}" if series in NARROWER_METRICS else "same"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


PARTS: Mapping[str, Callable[[], str]] = {"flags": flags, "plugins": plugins, "metrics": metrics}
