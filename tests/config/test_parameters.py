"""Every parameter that upstream documents is read, by its name and with its default."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from epp.config.decode import camel
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core.flow.policies import MAX_BYTES, MAX_REQUESTS
from tests.picking import TYPES
from tools import compatibility

REQUIRED = object()
NONE = None
"""Not set: what upstream's default is then happens."""
MAX = {"maxNumOfEndpoints": 1}
PREFIX = {"prefixMatchInfoProducerName": "approx-prefix-cache-producer"}
LOAD = {"inFlightLoadProducerName": "inflight-load-producer"}
SESSION = {
    "strategy": "encoded_endpoint_header",
    "encodedEndpointHeaderConfig.header": "x-session-token",
    "sessionIdConfig.evictionTtlSeconds": 300.0,
    "sessionIdConfig.evictionSweepSeconds": 10.0,
    "profileName": "",
}
UPSTREAM: Mapping[str, Mapping[str, Any]] = {
    "prefix-cache-scorer": {**PREFIX, "matchLengthWeight": 0.0, "matchLengthScaleTokens": 8192},
    "load-aware-scorer": {"threshold": 128},
    "active-request-scorer": {"idleThreshold": 0, "maxBusyScore": 1.0, **LOAD, "requestTimeout": ""},
    "token-load-scorer": {"queueThresholdTokens": 4194304, **LOAD},
    "no-hit-lru-scorer": {"lruSize": 1024, **PREFIX, "prefixPluginType": "", "prefixPluginName": ""},
    "context-length-aware": {"label": "llm-d.ai/context-length-range", "enableFiltering": False},
    "session-affinity-scorer": SESSION,
    "session-affinity-filter": SESSION,
    "header-label-affinity-scorer": {"headerName": REQUIRED, "labelKey": REQUIRED},
    "endpoint-attribute-scorer": {
        "attributeKey": REQUIRED,
        "producer": "core-metrics-extractor",
        "algorithm": REQUIRED,
    },
    "endpoint-attribute-filter": {
        "attribute": REQUIRED,
        "producer": "core-metrics-extractor",
        "onMissing": "Pass",
        "fallbackOnEmpty": False,
        "algorithm": REQUIRED,
    },
    "topology-affinity-scorer": {"topologyProducerName": "topology-extractor"},
    "topology-affinity-filter": {"minAffinity": "host", "topologyProducerName": "topology-extractor"},
    "label-selector-filter": {"matchLabels": {}, "matchExpressions": ()},
    "by-label-selector": {"matchLabels": {}, "matchExpressions": ()},
    "by-label": {"label": REQUIRED, "validValues": (), "allowsNoLabel": False},
    "prefix-cache-affinity-filter": {
        "affinityThreshold": 0.8,
        "explorationProbability": 0.0,
        "maxTTFTPenaltyMs": 18000.0,
        "ttftSource": "prefillThroughput",
        "peakPrefillThroughput": 15928.0,
    },
    "utilization-filter": {"conditions": REQUIRED, "fallbackOnEmpty": False, **LOAD},
    "max-score-picker": MAX,
    "random-picker": MAX,
    "weighted-random-picker": MAX,
    "disagg-profile-handler": {
        "stageOrder": "decode-first",
        "profiles.decode": "decode",
        "profiles.prefill": "prefill",
        "profiles.encode": "encode",
        "deciders.prefill": "",
        "deciders.encode": "",
    },
    "data-parallel-profile-handler": {"primaryPort": 8000},
    "header-profile-handler": {"headerName": "EPP-Profile", "defaultProfile": "decode"},
    "prefix-based-pd-decider": {"nonCachedTokens": 0, "promptTokens": 0},
    "approx-prefix-cache-producer": {
        "autoTune": True,
        "blockSizeTokens": 16,
        "maxPrefixBlocksToMatch": 2048,
        "maxPrefixTokensToMatch": 131072,
        "lruCapacityPerServer": 31250,
        "blockSize": 0,
    },
    "token-producer": {"modelName": "", "estimate": NONE, "vllm": NONE, "udsTokenizerConfig": NONE},
    "tokenizer": {"modelName": "", "estimate": NONE, "vllm": NONE, "udsTokenizerConfig": NONE},
    "inflight-load-producer": {
        "addEstimatedOutputTokens": False,
        "outputRatio": 1.5,
        "maxEstimatedOutputTokens": NONE,
        **PREFIX,
        # upstream true, without effect unless replicas are told of each other
        "syncCrossReplicaState": False,
    },
    "session-id-producer": {"headerName": "", "cookieName": ""},
    "probabilistic-admitter": {
        "queueDepthThreshold": 5,
        "kvCacheUtilThreshold": 0.8,
        "power": 5.0,
        "k": 300.0,
    },
    "agent-identity": {"additionalSessionHeaders": ()},
    "request-attribute-reporter": {"attributes": REQUIRED},
    "utilization-detector": {
        "queueDepthThreshold": 5,
        "kvCacheUtilThreshold": 0.8,
        "metricsStalenessThreshold": NONE,
        "headroom": 0.0,
    },
    "concurrency-detector": {
        "maxConcurrency": 100,
        "headroom": 0.0,
        "concurrencyMode": "requests",
        "maxTokenConcurrency": 1000000,
    },
    "program-aware-fairness": {
        "strategy": "las",
        "lasWeightService": 0.8,
        "lasWeightHeadWait": 0.2,
        "lasHalfLifeSeconds": 60.0,
        "evictionTtlSeconds": 3600.0,
        "evictionSweepSeconds": 300.0,
    },
    "static-usage-limit-policy": {"threshold": 1.0},
    "priority-holdback-policy": {
        "shape": "linear",
        "domain": "rank",
        "minCeiling": REQUIRED,
        "maxCeiling": 1.0,
    },
    "metrics-data-source": {
        "scheme": NONE,  # http
        "path": NONE,  # the engine's, /metrics with most
        "port": NONE,
        "insecureSkipVerify": True,
        "caCertPath": "",
        "clientCertPath": "",
        "clientKeyPath": "",
        "interval": NONE,
    },
    "core-metrics-extractor": {
        "engineLabelKey": "llm-d.ai/engine-type",
        "defaultEngine": NONE,  # found out by looking; upstream takes vllm for granted
        "engineConfigs": (),
    },
    "models-data-source": {
        "scheme": NONE,  # http
        "path": "/v1/models",
        "insecureSkipVerify": True,
        "caCertPath": "",
        "clientCertPath": "",
        "clientKeyPath": "",
        "interval": 10.0,  # ours: upstream names none
    },
    "dcgm-data-source": {
        "scheme": "http",
        "path": "/metrics",
        "port": 9400,
        "insecureSkipVerify": True,
        "useNodeAddress": False,
        "interval": 5.0,  # as above
    },
    "topology-extractor": {
        "hostname": "kubernetes.io/hostname",
        "rack": "topology.kubernetes.io/rack",
        "zone": "topology.kubernetes.io/zone",
        "region": "topology.kubernetes.io/region",
    },
    "file-discovery": {"path": REQUIRED, "watchFile": False},
    "k8s-notification-source": {"group": "", "version": "", "kind": ""},
    "pd-profile-handler": {
        "decodeProfile": "",
        "prefillProfile": "",
        "prefixPluginType": "",
        "prefixPluginName": "",
        "primaryPort": 0,
        "deciderPluginName": "",
        "prefixMatchInfoProducerName": "",
        "threshold": NONE,
        "hashBlockSize": 0,
    },
    "disagg-headers-handler": {"prefillProfile": "", "encodeProfile": ""},
    "prefill-header-handler": {"prefillProfile": "", "encodeProfile": ""},
}
OURS_TOO = {
    "header-label-affinity-scorer": {"stampResponseHeader"},
    "prefix-cache-affinity-filter": {"maxTokensInFlightPenalty", *PREFIX, *LOAD},
    "prefix-based-pd-decider": {*PREFIX},
    "approx-prefix-cache-producer": {"contiguousOnly"},
    "disagg-profile-handler": {
        *("decodeProfile", "prefillProfile", "encodeProfile"),
        *("deciderPluginName", "prefillDeciderPluginName", "encodeDeciderPluginName"),
    },
}
"""Parameters of other versions, and ours."""


def parameters(holder: type) -> dict[str, "dataclasses.Field[Any]"]:
    return {
        each.metadata.get("yaml") or camel(each.name): each
        for each in dataclasses.fields(holder)
        if each.init
    }


def default_of(holder: type, written: str) -> Any:
    """The default of a parameter, or of one within it."""
    name, _, inner = written.partition(".")
    field = parameters(holder)[name]
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return REQUIRED
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    return default_of(type(value), inner) if inner else value


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_parameters_and_their_defaults(name: str) -> None:
    expected = UPSTREAM[name]
    assert {written: default_of(TYPES[name], written) for written in expected} == expected


@pytest.mark.parametrize("name", sorted(compatibility.UPSTREAM_TYPES - UNSUPPORTED_TYPES.keys()))
def test_no_other_parameters_but_ours(name: str) -> None:
    known = {written.partition(".")[0] for written in UPSTREAM.get(name, {})} | OURS_TOO.get(name, set())
    inherited = set(parameters(TYPES["disagg-profile-handler"])) if name == "pd-profile-handler" else set()
    assert parameters(TYPES[name]).keys() <= known | inherited


def test_the_limits_of_a_band() -> None:
    assert (MAX_BYTES, MAX_REQUESTS) == (1_000_000_000, 5000)
