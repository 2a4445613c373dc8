"""The engines that can be asked how they are: which series mean what, which path and status, as data.

Place:   called by epp.runtime.probe with the body and headers of an answer; returns a Load.
Ignores: how the page came here, who uses the reading, and the clock (callers pass unix time).
Rule:    an engine is a row of ENGINES, never a branch. What a page does not say, says twice or says
         impossibly (negative counts, NaN, a cache fuller than full) is None. No question makes a server
         generate anything.
Source:  upstream's ``core-metrics-extractor`` presets (llm-d-router v0.10); for TGI, llama.cpp, oMLX, Ollama
         and mlx_lm, which have no preset there, their servers' own pages; for health, the servers' sources.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec

from epp.core.exposition import Sample, group, mentions, samples
from epp.core.fleet import Load, Lora
from epp.core.rates import Work

CLOCK_SKEW = 60.0
"""How far [s] a server's clock may be ahead before one of its timestamps cannot be one."""

_MOST = 1e15
"""No count of anything is larger; keeps sums finite whatever a page says."""

ENGINE_LABELS = (
    "llm-d.ai/engine-type",
    "inference.networking.k8s.io/engine-type",
    "fleet-epp.dev/engine",
)
"""The endpoint labels that name the engine, the current one first."""


@dataclass(frozen=True, slots=True)
class Series:
    """Where one number is: a series, and the labels that its samples must have."""

    name: bytes
    where: tuple[tuple[str, str], ...] = ()

    def read(self, page: bytes) -> list[Sample]:
        """The samples meant, in the order of the page."""
        found = samples(page, self.name)
        return [s for s in found if all(s.label(k) == v for k, v in self.where)] if self.where else found

    def read_steady(self, page: bytes) -> Sequence[Sample]:
        """As ``read``, of a series that says the same for hours: its lines are read once."""
        lines = group(page, self.name)
        return _read_once(self, lines) if len(lines) <= _MOST_LINES else self.read(lines)


_MOST_LINES = 4096
"""Bytes: without TYPE lines a group ends with the page."""


@lru_cache(maxsize=512)
def _read_once(what: Series, lines: bytes) -> tuple[Sample, ...]:
    return tuple(what.read(lines))


@dataclass(frozen=True, slots=True)
class Key:
    """Where one number is in a JSON answer: a key of the outermost object."""

    name: bytes

    def read(self, page: bytes) -> list[Sample]:
        """As a series with one sample."""
        value = _json_object(page).get(self.name.decode())
        if not isinstance(value, int | float) or isinstance(value, bool):
            return []
        return [Sample(_float(value))]


Where = Series | Key


class SpecError(ValueError):
    """A metric specification that cannot be understood; says what is expected."""


_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\}\s*)?")
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",{}\s]+))\s*')


def series(spec: str) -> Series:
    """A series as upstream's configuration writes it: ``metric_name`` or ``metric_name{label=value}``."""
    whole = _SPEC.fullmatch(spec)
    if whole is None:
        raise SpecError(f"{spec!r} is no metric: expected metric_name or metric_name{{label=value,...}}")
    where = []
    for text in (whole[2] or "").split(",") if (whole[2] or "").strip() else ():
        pair = _MATCHER.fullmatch(text)
        if pair is None:
            raise SpecError(f"{spec!r}: {text.strip()!r} is no label condition: expected label=value")
        where.append((pair[1], pair[2] if pair[2] is not None else pair[3]))
    return Series(whole[1].encode(), tuple(where))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Where an engine counts its work (epp.core.rates.Work); of several the first that the page has."""

    prompt_tokens: tuple[Series, ...] = ()
    prompt_seconds: tuple[Series, ...] = ()
    prompts: tuple[Series, ...] = ()
    tokens: tuple[Series, ...] = ()
    token_seconds: tuple[Series, ...] = ()
    asked_tokens: tuple[Series, ...] = ()
    hit_tokens: tuple[Series, ...] = ()
    asks_with_hits: bool = True
    """What was asked for includes what was hit; else the series counts the rest."""


NO_COUNTERS = Counters()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One engine. Of several series for one number the first that the page has is read."""

    name: str
    signs: tuple[bytes, ...] = ()
    """Beginnings of series names that give this engine away."""
    keys: tuple[str, ...] = ()
    """Keys that together give its JSON answer away."""
    server: str = ""
    """Value of the Server header that gives this engine away."""
    waiting: tuple[Where, ...] = ()
    running: tuple[Where, ...] = ()
    kv_usage: tuple[Where, ...] = ()
    replica_label: str = ""
    """Counts are summed over the values of this label and are the same number within one of them.
    Empty: every sample is a count of its own (one per data-parallel engine or model)."""
    lora: Series | None = None
    """Upstream's ``lora_requests_info``: adapters in labels, the time in the value."""
    cache_info: Series | None = None
    """A series whose labels say how the KV cache is cut."""
    cache_block_label: str = ""
    cache_blocks_label: str = ""
    cache_block_tokens: Series | None = None
    """Where the block size is a value and not a label."""
    cache_blocks: Series | None = None
    started_header: str = ""
    """The response header with the process's start; else it is the page's process_start_time_seconds."""
    models_key: str = ""
    """Where its JSON answer lists the models in its memory, with their sizes."""
    sleep: Series | None = None
    """A series that is 1 for the state of sleep it is in, named by the label ``sleep_state``."""
    attributes: tuple[tuple[str, Series], ...] = ()
    """Figures of people's own: the name each is to have, and where it is."""
    metrics_path: str = "/metrics"
    """Empty: it tells nothing about its load."""
    health_path: str = "/health"
    """Where it says whether it is ready, cheaply. Any answer but ``not_ready`` means that it is."""
    not_ready: frozenset[int] = frozenset({500, 502, 503, 504})
    """Statuses there that say that it is not: itself, or a proxy before it."""
    props_path: str = ""
    """Where the number of slots is told."""
    slots_path: str = ""
    """Where each slot is told, and so how many are taken."""
    counters: Counters = NO_COUNTERS


def _of(*specs: str) -> tuple[Series, ...]:
    return tuple(map(series, specs))


_VLLM_WORK = Counters(
    # all three are counted when a request ends
    prompt_tokens=_of("vllm:request_prefill_kv_computed_tokens_sum"),
    prompt_seconds=_of("vllm:request_prefill_time_seconds_sum"),
    prompts=_of("vllm:request_prefill_time_seconds_count"),
    tokens=_of("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
    token_seconds=_of("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
    asked_tokens=_of("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    hit_tokens=_of("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
)
_SGLANG_WORK = Counters(
    tokens=_of("sglang:inter_token_latency_seconds_count", "sglang:time_per_output_token_seconds_count"),
    token_seconds=_of("sglang:inter_token_latency_seconds_sum", "sglang:time_per_output_token_seconds_sum"),
    asked_tokens=_of("sglang:prompt_tokens_total"),
    hit_tokens=_of("sglang:cached_tokens_total"),
)
_TGI_WORK = Counters(
    # of each request the mean, so that both stand for one token of each
    tokens=_of("tgi_request_mean_time_per_token_duration_count"),
    token_seconds=_of("tgi_request_mean_time_per_token_duration_sum"),
)
_LLAMACPP_WORK = Counters(
    prompt_tokens=_of("llamacpp:prompt_tokens_total"),
    prompt_seconds=_of("llamacpp:prompt_seconds_total"),
    tokens=_of("llamacpp:tokens_predicted_total"),
    token_seconds=_of("llamacpp:tokens_predicted_seconds_total"),
    asked_tokens=_of("llamacpp:prompt_tokens_total"),
    hit_tokens=_of("llamacpp:prompt_tokens_cached_total"),
    asks_with_hits=False,
)

_TRITON_NOT_READY = frozenset({400, 500, 502, 503, 504})
_SLEEPS = {"weights_offloaded": "asleep (level 1)", "discard_all": "asleep (level 2)"}

_ROWS = (
    Adapter(
        name="vllm",
        signs=(b"vllm:",),
        waiting=(series("vllm:num_requests_waiting"),),
        running=(series("vllm:num_requests_running"),),
        kv_usage=(series("vllm:kv_cache_usage_perc"), series("vllm:gpu_cache_usage_perc")),
        lora=series("vllm:lora_requests_info"),
        cache_info=series("vllm:cache_config_info"),
        cache_block_label="block_size",
        cache_blocks_label="num_gpu_blocks",
        sleep=series("vllm:engine_sleep_state"),
        counters=_VLLM_WORK,
    ),
    Adapter(
        name="sglang",
        signs=(b"sglang:",),
        waiting=(series("sglang:num_queue_reqs"),),
        running=(series("sglang:num_running_reqs"),),
        kv_usage=(series("sglang:token_usage"),),
        # its tensor- and pipeline-parallel ranks may each report the requests they share
        replica_label="dp_rank",
        cache_info=series("sglang:cache_config_info"),
        cache_block_label="page_size",
        cache_blocks_label="num_pages",
        # its /health generates a token and takes a second, unless an environment variable says otherwise
        health_path="/model_info",
        counters=_SGLANG_WORK,
    ),
    Adapter(
        name="trtllm-serve",
        signs=(b"trtllm_",),
        waiting=(series("trtllm_num_requests_waiting"),),
        running=(series("trtllm_num_requests_running"),),
        kv_usage=(series("trtllm_kv_cache_utilization"),),
        cache_block_tokens=series("trtllm_kv_cache_tokens_per_block"),
        cache_blocks=series("trtllm_kv_cache_max_blocks"),
        metrics_path="/prometheus/metrics",
    ),
    Adapter(
        name="triton-tensorrt-llm",
        signs=(b"nv_trt_llm_",),
        waiting=(series("nv_trt_llm_request_metrics{request_type=waiting}"),),
        running=(series("nv_trt_llm_request_metrics{request_type=scheduled}"),),
        kv_usage=(series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}"),),
        cache_block_tokens=series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}"),
        cache_blocks=series("nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}"),
        health_path="/v2/health/ready",
        not_ready=_TRITON_NOT_READY,
    ),
    Adapter(
        name="triton",
        signs=(b"nv_inference_",),
        waiting=(series("nv_inference_pending_request_count"),),
        # Upstream's preset reads nv_inference_exec_count as running, but that counts every
        # execution since the start: Triton does not say how many requests run.
        health_path="/v2/health/ready",
        not_ready=_TRITON_NOT_READY,
    ),
    Adapter(
        name="tgi",
        signs=(b"tgi_",),
        waiting=(series("tgi_queue_size"),),
        running=(series("tgi_batch_current_size"),),
        # its /health makes the model generate while no request has succeeded yet, or the last one failed
        health_path="/info",
        counters=_TGI_WORK,
    ),
    Adapter(
        name="llamacpp",
        signs=(b"llamacpp:",),
        server="llama.cpp",
        waiting=(series("llamacpp:requests_deferred"),),
        running=(series("llamacpp:requests_processing"),),
        kv_usage=(series("llamacpp:kv_cache_usage_ratio"),),  # old builds only
        # Says unix time, is microseconds since the machine's start: it tells processes apart, not dates.
        started_header="process-start-time-unix",
        props_path="/props",
        slots_path="/slots",
        counters=_LLAMACPP_WORK,
    ),
    Adapter(
        name="omlx",
        keys=("active_requests", "waiting_requests"),
        waiting=(Key(b"waiting_requests"),),
        running=(Key(b"active_requests"),),  # the waiting ones among them
        metrics_path="/api/status",
    ),
    Adapter(
        name="ollama",
        keys=("models",),
        models_key="models",
        metrics_path="/api/ps",
        health_path="/api/version",
    ),
    Adapter(name="mlx-server", metrics_path=""),  # mlx_lm.server
)
ENGINES: Mapping[str, Adapter] = MappingProxyType({row.name: row for row in _ROWS})


# --- reading -------------------------------------------------------------------------------------


def read_load(engine: Adapter, page: bytes, headers: Mapping[str, str], now_unix: float) -> Load:
    """One metrics page. ``headers``: of the answer, names in lower case."""
    block_tokens, blocks = _cache(engine, page)
    return Load(
        waiting=_count(engine.waiting, page, engine.replica_label),
        running=_count(engine.running, page, engine.replica_label),
        kv_usage=_fraction(engine.kv_usage, page),
        lora=_lora(engine.lora, page, now_unix) if engine.lora is not None else None,
        cache_block_tokens=block_tokens,
        cache_blocks=blocks,
        started_at=_started_at(engine, page, headers),
        models=_models(engine, page) if engine.models_key else None,
        attributes=_attributes(engine.attributes, page) if engine.attributes else None,
    )


def read_work(engine: Adapter, page: bytes) -> Work | None:
    """What the engine has counted, summed over its ranks and models; None: it counts nothing.

    Not a part of ``read_load``: counters are behind most of a page, and with vLLM's would cost as much again.
    """
    counters = engine.counters
    if counters is NO_COUNTERS:
        return None
    hits = _total(counters.hit_tokens, page)
    asked = _total(counters.asked_tokens, page)
    if not counters.asks_with_hits and asked is not None and hits is not None:
        asked += hits
    return Work(
        prompt_tokens=_total(counters.prompt_tokens, page),
        prompt_seconds=_total(counters.prompt_seconds, page),
        prompts=_total(counters.prompts, page),
        tokens=_total(counters.tokens, page),
        token_seconds=_total(counters.token_seconds, page),
        asked_tokens=asked,
        hit_tokens=hits,
    )


def asleep(engine: Adapter, page: bytes) -> str:
    """How deep the engine sleeps, for people; empty: it is awake, or does not say."""
    for sample in engine.sleep.read_steady(page) if engine.sleep is not None else ():
        if sample.value == 1 and (depth := _SLEEPS.get(sample.label("sleep_state") or "")):
            return depth
    return ""


def detect(page: bytes, headers: Mapping[str, str], engines: Mapping[str, Adapter] = ENGINES) -> str | None:
    """The engine that made this answer; None when nothing gives it away.

    Earlier rows win: Triton's own series stand beside those of its TensorRT-LLM backend.
    """
    server = headers.get("server", "")
    for name, engine in engines.items():
        if engine.server and engine.server == server:
            return name
        if any(mentions(page, sign) for sign in engine.signs):
            return name
        if engine.keys and page.startswith(b"{") and _json_object(page).keys() >= set(engine.keys):
            return name
    return None


def impossible(engine: Adapter, page: bytes) -> dict[str, float]:
    """The series of the load that a page has with values that cannot be, each with the last of them."""
    wrong: dict[str, float] = {}
    for alternatives, can_be in (
        (engine.waiting, _is_count),
        (engine.running, _is_count),
        (engine.kv_usage, _is_fraction),
    ):
        for read in alternatives:
            found = read.read(page)
            wrong.update((read.name.decode(), each.value) for each in found if not can_be(each.value))
            if found:
                break
    return wrong


class _Props(msgspec.Struct):
    total_slots: int | None = None


_Slots = _Props | list[dict[str, Any]]
_SLOTS: msgspec.json.Decoder[_Slots] = msgspec.json.Decoder(_Slots)


def read_slots(body: bytes) -> int | None:
    """How many requests llama.cpp works on at once, from the body of ``/props`` or ``/slots``."""
    told = _decode_slots(body)
    slots = told.total_slots if isinstance(told, _Props) else len(told) if told is not None else None
    return slots if slots is not None and slots > 0 else None


def read_busy_slots(body: bytes) -> int | None:
    """How many of them are taken, from the body of ``/slots``: what a server without metrics tells."""
    told = _decode_slots(body)
    if not isinstance(told, list) or not told:
        return None
    taken = [slot.get("is_processing") for slot in told]
    return sum(map(bool, taken)) if all(isinstance(each, bool) for each in taken) else None


def _decode_slots(body: bytes) -> _Slots | None:
    try:
        return _SLOTS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _json_object(page: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.decode(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # JSON's whole numbers have no end
        return math.inf


def _models(engine: Adapter, page: bytes) -> dict[str, int] | None:
    listed = _json_object(page).get(engine.models_key)
    if not isinstance(listed, list):
        return None
    sizes = {}
    for model in listed:
        name, size = (model.get("name"), model.get("size")) if isinstance(model, dict) else (None, None)
        if isinstance(name, str) and isinstance(size, int) and 0 <= size <= _MOST:
            sizes[name] = int(size)
    return sizes


def _present(alternatives: Iterable[Where], page: bytes) -> list[Sample]:
    """The samples of the first series that the page has."""
    for each in alternatives:
        found = each.read(page)
        if found:
            return found
    return []


def _is_count(value: float) -> bool:
    return 0 <= value <= _MOST  # NaN is not >= 0


def _is_fraction(value: float) -> bool:
    return 0 <= value <= 1


def _count(alternatives: tuple[Where, ...], page: bytes, replica_label: str) -> int | None:
    found = _present(alternatives, page)
    if not found or not all(_is_count(sample.value) for sample in found):
        return None
    if not replica_label:
        return int(sum(sample.value for sample in found))
    replicas: dict[str | None, float] = {}
    for sample in found:
        replica = sample.label(replica_label)
        replicas[replica] = max(sample.value, replicas.get(replica, 0.0))
    return int(sum(replicas.values()))


def _total(alternatives: tuple[Series, ...], page: bytes) -> float | None:
    found = _present(alternatives, page)
    values = [sample.value for sample in found]
    return sum(values) if values and all(map(_is_count, values)) else None


def _fraction(alternatives: tuple[Where, ...], page: bytes) -> float | None:
    values = [sample.value for sample in _present(alternatives, page)]
    return max(values) if values and all(map(_is_fraction, values)) else None


def _lora(where: Series, page: bytes, now_unix: float) -> Lora | None:
    """The newest line: old ones stay for ever. Several API servers of one vLLM may add their times
    up to one in the far future, which would win for ever."""
    believable = [s for s in where.read(page) if 0 < s.value <= now_unix + CLOCK_SKEW]
    if not believable:
        return None
    newest = max(believable, key=lambda sample: sample.value)
    return Lora(
        running=_names(newest.label("running_lora_adapters")),
        waiting=_names(newest.label("waiting_lora_adapters")),
        max_adapters=_positive(newest.label("max_lora")) or 0,
    )


def _names(text: str | None) -> frozenset[str]:
    return frozenset(name.strip() for name in (text or "").split(",") if name.strip())


def _cache(engine: Adapter, page: bytes) -> tuple[int | None, int | None]:
    """Tokens in a block, and blocks in all.

    Of several the largest: each data-parallel engine of vLLM tells the number of all of them.
    """
    infos = engine.cache_info.read_steady(page) if engine.cache_info is not None else []
    if infos:
        tokens = [_positive(info.label(engine.cache_block_label)) for info in infos]
        blocks = [_positive(info.label(engine.cache_blocks_label)) for info in infos]
    else:
        tokens = _values(engine.cache_block_tokens, page)
        blocks = _values(engine.cache_blocks, page)
    return max(filter(None, tokens), default=None), max(filter(None, blocks), default=None)


def _values(where: Series | None, page: bytes) -> list[int | None]:
    return [_whole(sample.value) for sample in where.read(page)] if where is not None else []


def _attributes(wanted: Iterable[tuple[str, Series]], page: bytes) -> dict[str, float]:
    found = ((key, where.read(page)) for key, where in wanted)
    return {key: s[0].value for key, s in found if len(s) == 1 and math.isfinite(s[0].value)}


def _positive(text: str | None) -> int | None:
    """A positive whole number in a label, which may also say "None"."""
    digits = text is not None and len(text) < 16 and text.isascii() and text.isdigit()
    return int(text) or None if text is not None and digits else None


def _whole(value: float) -> int | None:
    return int(value) if 1 <= value <= _MOST else None


def _started_at(engine: Adapter, page: bytes, headers: Mapping[str, str]) -> float | None:
    if engine.started_header:
        return _time(headers.get(engine.started_header, ""))
    found = samples(page, b"process_start_time_seconds")
    return found[0].value if len(found) == 1 and 0 < found[0].value < float("inf") else None


def _time(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
