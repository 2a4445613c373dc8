"""``core-metrics-extractor``: which metrics of an engine mean what."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import ENGINES, Adapter, Kind, Series, series


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric:
    """One figure of one's own."""

    attribute_key: str
    """What it is called in ``endpoint-attribute-scorer`` and ``endpoint-attribute-filter``."""
    metric_spec: str
    """The metric, ``name`` or ``name{label=value,…}``: it has to be there exactly once."""

    def __post_init__(self) -> None:
        if not self.attribute_key:
            raise ValueError("attributeKey: must not be empty")
        if not _series("metricSpec", self.metric_spec):
            raise ValueError("metricSpec: must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine's metric names, each ``name`` or ``name{label=value,…}``; empty: the engine has none."""

    name: str
    """What ``engine`` and the engine label say."""
    queued_requests_spec: str = ""
    """Requests that wait in the server."""
    running_requests_spec: str = ""
    """Requests that the server works on."""
    kv_usage_spec: str = ""
    """Fraction of the KV cache in use, 0 to 1."""
    lora_spec: str = ""
    """A metric with the labels of vLLM's ``vllm:lora_requests_info``."""
    cache_info_spec: str = ""
    """A metric whose labels say block size and number of blocks."""
    cache_block_size_label_name: str = ""
    """The label of ``cacheInfoSpec`` with the block size; empty: ``block_size``."""
    cache_num_blocks_label_name: str = ""
    """The label of ``cacheInfoSpec`` with the number of blocks; empty: ``num_gpu_blocks``."""
    cache_block_size_spec: str = ""
    """A gauge with the block size, where there is no such metric."""
    cache_num_blocks_spec: str = ""
    """A gauge with the number of blocks, where there is no such metric."""
    custom_metrics: tuple[CustomMetric, ...] = ()
    """Figures of one's own."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: must not be empty")
        if self.name == "default":
            raise ValueError('name: "default" is reserved, use defaultEngine to choose the default')
        keys = [each.attribute_key for each in self.custom_metrics]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f'customMetrics: the attributeKey "{key}" is there twice')
        self.adapter()

    def adapter(self) -> Adapter:
        """The engine as the scraper reads it. ValueError: a metric is written in no known way."""
        waiting = _series("queuedRequestsSpec", self.queued_requests_spec)
        running = _series("runningRequestsSpec", self.running_requests_spec)
        kv_usage = _series("kvUsageSpec", self.kv_usage_spec)
        return Adapter(
            name=self.name,
            signs=tuple(dict.fromkeys(each.name for each in (*waiting, *running, *kv_usage))),
            waiting=waiting,
            running=running,
            kv_usage=kv_usage,
            lora=_only(_series("loraSpec", self.lora_spec)),
            cache_info=_only(_series("cacheInfoSpec", self.cache_info_spec)),
            cache_block_label=self.cache_block_size_label_name or "block_size",
            cache_blocks_label=self.cache_num_blocks_label_name or "num_gpu_blocks",
            cache_block_tokens=_only(_series("cacheBlockSizeSpec", self.cache_block_size_spec)),
            cache_blocks=_only(_series("cacheNumBlocksSpec", self.cache_num_blocks_spec)),
            attributes=tuple((each.attribute_key, series(each.metric_spec)) for each in self.custom_metrics),
        )


def _series(written: str, spec: str) -> tuple[Series, ...]:
    try:
        return (series(spec),) if spec else ()
    except ValueError as error:
        raise ValueError(f"{written}: {error}") from None


def _only(found: tuple[Series, ...]) -> Series | None:
    return found[0] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMetricsExtractor:
    """How an endpoint's engine is known, and what its metrics are called.

    Better: engines without a label are recognised by their metrics; llama.cpp and Ollama are known.
    Source: upstream ``core-metrics-extractor``.
    """

    engine_label_key: str = "llm-d.ai/engine-type"
    """The endpoint label that names its engine (``inference.networking.k8s.io/engine-type`` also counts)."""
    default_engine: str | None = None
    """The engine of endpoints without that label; None: it is found out by looking."""
    engine_configs: tuple[EngineConfig, ...] = ()
    """Engines in addition to the built-in ones, or instead of a built-in one of the same name."""

    kind: ClassVar[Kind] = Kind.EXTRACTOR

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for config in self.engine_configs:
            if config.name in seen:
                raise ValueError(f'engineConfigs: engine "{config.name}" is there twice')
            seen.add(config.name)
        known = dict.fromkeys((*ENGINES, *seen))
        if self.default_engine is not None and self.default_engine not in known:
            names = ", ".join(known)
            raise ValueError(f'defaultEngine: there is no engine "{self.default_engine}", known are {names}')
