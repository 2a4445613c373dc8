"""What engines' metrics pages mean."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.core.engines import (
    CLOCK_SKEW,
    ENGINES,
    Adapter,
    Series,
    SpecError,
    asleep,
    detect,
    impossible,
    read_busy_slots,
    read_load,
    read_slots,
    read_work,
    series,
)
from epp.core.fleet import Load, Lora
from epp.core.rates import Work
from scorers.core_metrics_extractor import EngineConfig
from tests.captures import FOLDER, capture

NOW = 1795165040.0
"""Shortly after the recordings [unix s]."""


def read(engine: str, page: str, headers: Mapping[str, str] | None = None) -> Load:
    return read_load(ENGINES[engine], page.encode(), headers or {}, NOW)


def lora(*names: str, most: int) -> Lora:
    return Lora(running=frozenset(names), waiting=frozenset(names), max_adapters=most)


VLLM = {"cache_block_tokens": 128, "cache_blocks": 512}
MAIN = {"cache_block_tokens": 128, "cache_blocks": 8192, "started_at": 1795164424.68}
LORA = {"cache_block_tokens": 32, "cache_blocks": 80, "started_at": 1795164699.54}
LOAD = {**VLLM, "started_at": 1795164497.11}
DP = {"cache_block_tokens": 128, "cache_blocks": 1024, "started_at": 1795164916.44}
IDLE = {"waiting": 0, "running": 0, "kv_usage": 0.0}
RECORDED = {
    "vllm/main/metrics-fresh.txt": Load(**IDLE, **MAIN),
    "vllm/main/metrics-after-work.txt": Load(**IDLE, **MAIN),
    "vllm/load/metrics-busy.txt": Load(waiting=6, running=4, kv_usage=0.007827788649706457, **LOAD),
    "vllm/load/metrics-after-work.txt": Load(**IDLE, **LOAD),
    "vllm/dp/metrics-fresh.txt": Load(**IDLE, **DP),
    "vllm/dp/metrics-busy.txt": Load(waiting=3, running=4, kv_usage=0.003913894324853229, **DP),
    "vllm/lora/GET_metrics.txt": Load(**IDLE, **LORA),
    "vllm/lora/metrics-busy-3.txt": Load(
        waiting=4, running=4, kv_usage=0.05063291139240511, lora=lora("l0", most=1), **LORA
    ),
    "vllm/lora/metrics-busy-8.txt": Load(
        waiting=4, running=4, kv_usage=0.10126582278481011, lora=lora("l0", most=1), **LORA
    ),
    "vllm/multiapi/metrics-fresh.txt": Load(**VLLM),
    "vllm/multiapi/metrics-busy.txt": Load(
        waiting=3, running=4, kv_usage=0.007827788649706457, lora=lora("l0", "l1", most=2), **VLLM
    ),
    "llama-server/GET_metrics.txt": Load(waiting=0, running=0, started_at=1729830764.0),
}


def test_every_recorded_page_is_a_case() -> None:
    assert set(RECORDED) == {str(path.relative_to(FOLDER)) for path in FOLDER.glob("**/*metrics*.txt")}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_page_is_read(name: str) -> None:
    recorded = capture(name)
    engine = detect(recorded.body, recorded.headers)
    assert engine == ("vllm" if name.startswith("vllm") else "llamacpp")
    assert read_load(ENGINES[engine], recorded.body, recorded.headers, NOW) == RECORDED[name]


@pytest.mark.parametrize(
    "name, work",
    [
        (
            "vllm/main/metrics-after-work.txt",
            Work(
                prompt_tokens=1630.0,
                prompt_seconds=0.1440924460007409,
                prompts=39.0,
                tokens=9495.0,
                token_seconds=11.0377012369986,
                asked_tokens=2142.0,
                hit_tokens=512.0,
            ),
        ),
        (
            "vllm/dp/metrics-busy.txt",
            Work(
                prompt_tokens=0.0,
                prompt_seconds=0.0,
                prompts=0.0,
                tokens=86.0,
                token_seconds=1.2246814479999557,
                asked_tokens=8.0,
                hit_tokens=0.0,
            ),
        ),
        (
            "llama-server/GET_metrics.txt",
            Work(
                prompt_tokens=0.0,
                prompt_seconds=0.0,
                tokens=0.0,
                token_seconds=0.0,
                asked_tokens=0.0,
                hit_tokens=0.0,
            ),
        ),
    ],
)
def test_an_engine_counts_its_work(name: str, work: Work) -> None:
    recorded = capture(name)
    engine = detect(recorded.body, recorded.headers)
    assert engine is not None
    assert read_work(ENGINES[engine], recorded.body) == work


def test_what_was_cached_is_a_part_of_what_was_asked() -> None:
    page = b"llamacpp:prompt_tokens_total 300\nllamacpp:prompt_tokens_cached_total 700\n"
    found = read_work(ENGINES["llamacpp"], page)
    assert found is not None and (found.asked_tokens, found.hit_tokens) == (1000, 700)


def test_counts_that_cannot_be_are_unknown() -> None:
    lines = (
        "inter_token_latency_seconds_count 4",
        "inter_token_latency_seconds_sum NaN",
        "prefix_cache_hits_total -1",
    )
    page = "".join(f"vllm:{line}\n" for line in lines).encode()
    assert read_work(ENGINES["vllm"], page) == Work(tokens=4.0)


def test_an_engine_without_counters_tells_nothing_of_its_work() -> None:
    assert read_work(ENGINES["omlx"], b"{}") is None


@pytest.mark.parametrize("name", ["GET_health", "GET_props", "GET_slots", "GET_v1_models"])
def test_llamacpp_gives_itself_away_without_metrics(name: str) -> None:
    assert detect(b"", capture(f"llama-server/{name}.txt").headers) == "llamacpp"


SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="0"} 3
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="1"} 3
sglang:num_running_reqs{dp_rank="1",model_name="m",tp_rank="0"} 1
sglang:num_queue_reqs{dp_rank="0",model_name="m",tp_rank="0"} 2
sglang:token_usage{model_name="m"} 0.25
sglang:cache_config_info{page_size="64",num_pages="100"} 1
"""
TRTLLM = """\
trtllm_num_requests_waiting{model_name="m"} 2
trtllm_num_requests_running{model_name="m"} 5
trtllm_kv_cache_utilization{model_name="m"} 0.5
trtllm_kv_cache_tokens_per_block 32
trtllm_kv_cache_max_blocks 1000
"""
TRITON_TRTLLM = """\
nv_inference_pending_request_count{model="m"} 9
nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 5
nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 32
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 1000
"""
TRITON = 'nv_inference_pending_request_count{model="a"} 1\nnv_inference_pending_request_count{model="b"} 2\n'
FULL = {"waiting": 2, "running": 5, "kv_usage": 0.5, "cache_block_tokens": 32, "cache_blocks": 1000}
OMLX = """{"status":"ok","version":"0.3","models_loaded":1,"loaded_models":["q"],"active_requests":3,\
"waiting_requests":1,"avg_prefill_tps":210.5,"avg_generation_tps":31.0}"""
OLLAMA = """{"models":[{"name":"qwen3:8b","model":"qwen3:8b","size":6591830464,"digest":"5",\
"details":{"format":"gguf"},"expires_at":"2026-11-20T10:00:00Z","size_vram":6591830464}]}"""


@pytest.mark.parametrize(
    "engine, page, expected",
    [
        pytest.param(
            "sglang",
            SGLANG,
            Load(waiting=2, running=4, kv_usage=0.25, cache_block_tokens=64, cache_blocks=100),
            id="sglang",
        ),
        pytest.param("trtllm-serve", TRTLLM, Load(**FULL), id="trtllm-serve"),
        pytest.param("triton-tensorrt-llm", TRITON_TRTLLM, Load(**FULL), id="triton-tensorrt-llm"),
        pytest.param("triton", TRITON + "nv_inference_exec_count 70000\n", Load(waiting=3), id="triton"),
        pytest.param(
            "tgi", "tgi_queue_size 2\ntgi_batch_current_size 5\n", Load(waiting=2, running=5), id="tgi"
        ),
        pytest.param(
            "llamacpp",
            "llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n"
            "llamacpp:kv_cache_usage_ratio 0.5\n",
            Load(waiting=3, running=2, kv_usage=0.5),
            id="old-llamacpp",
        ),
        pytest.param("omlx", OMLX, Load(waiting=1, running=3), id="omlx"),
        pytest.param("ollama", OLLAMA, Load(models={"qwen3:8b": 6591830464}), id="ollama"),
        pytest.param("ollama", '{"models":[]}', Load(models={}), id="ollama-with-nothing-loaded"),
    ],
)
def test_an_engine_is_recognised_and_read(engine: str, page: str, expected: Load) -> None:
    assert detect(page.encode(), {}) == engine
    assert read(engine, page) == expected


@pytest.mark.parametrize(
    "page, expected",
    [
        pytest.param("", Load(), id="nothing-is-unknown"),
        pytest.param("vllm:num_requests_waiting -1\n", Load(), id="negative-count"),
        pytest.param("vllm:num_requests_waiting NaN\n", Load(), id="nan-count"),
        pytest.param("vllm:num_requests_waiting +Inf\n", Load(), id="infinite-count"),
        pytest.param("vllm:num_requests_waiting 1e300\n", Load(), id="absurd-count"),
        pytest.param("vllm:num_requests_waiting_by_reason 3\n", Load(), id="another-series"),
        pytest.param("vllm:kv_cache_usage_perc 1.0\n", Load(kv_usage=1.0), id="full-cache"),
        pytest.param("vllm:kv_cache_usage_perc 55\n", Load(), id="cache-in-percent"),
        pytest.param("vllm:kv_cache_usage_perc -0.1\n", Load(), id="negative-cache"),
        pytest.param("vllm:kv_cache_usage_perc NaN\n", Load(), id="nan-cache"),
        pytest.param("vllm:gpu_cache_usage_perc 0.25\n", Load(kv_usage=0.25), id="old-name"),
        pytest.param(
            "vllm:gpu_cache_usage_perc 0.25\nvllm:kv_cache_usage_perc 0.5\n",
            Load(kv_usage=0.5),
            id="new-name",
        ),
        pytest.param(
            'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 2\n'
            'vllm:kv_cache_usage_perc{engine="0"} 0.1\nvllm:kv_cache_usage_perc{engine="1"} 0.9\n',
            Load(waiting=3, kv_usage=0.9),
            id="data-parallel",
        ),
        pytest.param(
            'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} NaN\n',
            Load(),
            id="one-engine-unknown",
        ),
        pytest.param(
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1\n',
            Load(cache_block_tokens=16),
            id="blocks-not-known-yet",
        ),
        pytest.param("process_start_time_seconds NaN\n", Load(), id="nan-start"),
        pytest.param("process_start_time_seconds 17.5\n", Load(started_at=17.5), id="start"),
    ],
)
def test_vllm_numbers(page: str, expected: Load) -> None:
    assert read("vllm", page) == expected


@pytest.mark.parametrize(
    "engine, page, expected",
    [
        pytest.param("omlx", '{"waiting_requests":-1,"active_requests":2}', Load(running=2), id="negative"),
        pytest.param("omlx", '{"waiting_requests":true,"active_requests":"2"}', Load(), id="no-numbers"),
        pytest.param("omlx", '{"waiting_requests":1' + "0" * 400 + "}", Load(), id="without-end"),
        pytest.param("omlx", '{"waiting_requests":', Load(), id="cut"),
        pytest.param("omlx", "[1]", Load(), id="no-object"),
        pytest.param("omlx", "[" * 100_000, Load(), id="deep"),
        pytest.param("ollama", '{"models":null}', Load(), id="no-list"),
        pytest.param("ollama", '{"models":[1,{"name":2},{"name":"a","size":-1}]}', Load(models={}), id="odd"),
        pytest.param("mlx-server", '{"status":"ok"}', Load(), id="tells-nothing"),
    ],
)
def test_json_that_does_not_say_what_it_should_is_unknown(engine: str, page: str, expected: Load) -> None:
    assert read(engine, page) == expected


SLEEP = 'vllm:engine_sleep_state{{engine="{}",sleep_state="{}"}} {}\n'


@pytest.mark.parametrize(
    "page, depth",
    [
        pytest.param(capture("vllm/load/metrics-busy.txt").body.decode(), "", id="recorded-awake"),
        pytest.param(
            SLEEP.format(0, "awake", 0.0)
            + SLEEP.format(0, "weights_offloaded", 1.0)
            + SLEEP.format(0, "discard_all", 0.0),
            "asleep (level 1)",
            id="weights-elsewhere",
        ),
        pytest.param(
            SLEEP.format(0, "awake", 1.0) + SLEEP.format(1, "discard_all", 1.0),
            "asleep (level 2)",
            id="one-of-two-engines",
        ),
        pytest.param(SLEEP.format(0, "unheard_of", 1.0), "", id="a-state-of-tomorrow"),
        pytest.param("", "", id="does-not-say"),
    ],
)
def test_sleep(page: str, depth: str) -> None:
    assert asleep(ENGINES["vllm"], page.encode()) == depth
    assert asleep(ENGINES["llamacpp"], page.encode()) == "", "it wakes by itself, and does not say"


def test_no_question_about_health_makes_a_server_generate() -> None:
    """SGLang's /health generates unless told otherwise, TGI's while its last generation failed."""
    paths = {name: engine.health_path for name, engine in ENGINES.items()}
    assert paths.pop("sglang") == "/model_info" and paths.pop("tgi") == "/info"
    assert paths.pop("ollama") == "/api/version", "it has no /health"
    assert set(paths.values()) == {"/health", "/v2/health/ready"}


def lora_line(at: float, running: str = "", waiting: str = "", most: str = "4") -> str:
    labels = f'max_lora="{most}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}"'
    return f"vllm:lora_requests_info{{{labels}}} {at!r}\n"


@pytest.mark.parametrize(
    "page, expected",
    [
        pytest.param(lora_line(NOW - 9, "a") + lora_line(NOW, "b,c", "d"),
                     Lora(frozenset("bc"), frozenset("d"), 4), id="newest-wins"),
        pytest.param(lora_line(NOW, "a") + lora_line(NOW - 9),
                     Lora(frozenset("a"), frozenset(), 4), id="newest-first"),
        pytest.param(lora_line(NOW * 2, "x") + lora_line(NOW, "a"),
                     Lora(frozenset("a"), frozenset(), 4), id="times-added-up"),
        pytest.param(lora_line(NOW + CLOCK_SKEW / 2, "a"), Lora(frozenset("a"), frozenset(), 4), id="skew"),
        pytest.param(lora_line(NOW + CLOCK_SKEW * 2, "a"), None, id="future"),
        pytest.param(lora_line(NOW, "", ""), Lora(max_adapters=4), id="none-active"),
        pytest.param(lora_line(NOW, " a , ,b", most="?"), Lora(frozenset("ab")), id="odd-lists"),
        pytest.param("", None, id="absent"),
    ],
)  # fmt: skip
def test_lora(page: str, expected: Lora | None) -> None:
    assert read("vllm", page).lora == expected


@pytest.mark.parametrize(
    "page, headers, expected",
    [
        pytest.param(b"vllm:x 1\n", {}, "vllm", id="first-line"),
        pytest.param(b"# TYPE vllm:num_requests_running gauge\n", {}, "vllm", id="declared-only"),
        pytest.param(b"", {"server": "llama.cpp"}, "llamacpp", id="server-header"),
        pytest.param(b"python_info 1\n", {"server": "uvicorn"}, None, id="vllm-without-stats"),
        pytest.param(b"<html>vllm: it works</html>", {}, None, id="a-web-page"),
        pytest.param(b"", {}, None, id="nothing"),
        pytest.param(b'{"models":[]}', {}, "ollama", id="json"),
        pytest.param(b'{"active_requests":1}', {}, None, id="not-all-keys"),
        pytest.param(b'{"models":', {}, None, id="half-json"),
    ],
)
def test_detection(page: bytes, headers: Mapping[str, str], expected: str | None) -> None:
    assert detect(page, headers) == expected


@pytest.mark.parametrize(
    "body, slots, busy",
    [
        pytest.param(capture("llama-server/GET_props.txt").body, 2, None, id="props"),
        pytest.param(capture("llama-server/GET_slots.txt").body, 2, 0, id="slots"),
        pytest.param(b'[{"is_processing":true},{"is_processing":false}]', 2, 1, id="one-busy"),
        pytest.param(b'[{"is_processing":true},{"id":1}]', 2, None, id="one-does-not-say"),
        pytest.param(b"[]", None, None, id="no-slots"),
        pytest.param(b'{"total_slots":0}', None, None, id="zero"),
        pytest.param(b'{"total_slots":"2"}', None, None, id="text"),
        pytest.param(b'{"error":{"code":501}}', None, None, id="refused"),
        pytest.param(b"[1,2]", None, None, id="not-objects"),
        pytest.param(b"<html>", None, None, id="not-json"),
        pytest.param(b'{"total_slots":2,"x\xff', None, None, id="not-utf-8"),
        pytest.param(b"[" * 100_000, None, None, id="deep"),
    ],
)
def test_slots(body: bytes, slots: int | None, busy: int | None) -> None:
    assert read_slots(body) == slots
    assert read_busy_slots(body) == busy


@pytest.mark.parametrize(
    "spec, expected",
    [
        pytest.param("my:queue", Series(b"my:queue"), id="name"),
        pytest.param("q{type=waiting}", Series(b"q", (("type", "waiting"),)), id="label"),
        pytest.param('q{type="waiting", a=b}', Series(b"q", (("type", "waiting"), ("a", "b"))), id="labels"),
        pytest.param(" q {} ", Series(b"q"), id="empty-braces"),
    ],
)
def test_a_metric_specification(spec: str, expected: Series) -> None:
    assert series(spec) == expected


@pytest.mark.parametrize("spec", ["", "1q", "q{", "q{a}", "q{a=}", "q{=b}", "q{a=b,}", "a b"])
def test_a_bad_metric_specification_says_what_is_expected(spec: str) -> None:
    with pytest.raises(SpecError, match="expected"):
        series(spec)


def my_engine(**fields: str) -> Adapter:
    return EngineConfig(name="mine", **fields).adapter()


MINE = my_engine(
    queued_requests_spec="q{kind=waiting}",
    running_requests_spec="r",
    kv_usage_spec="kv",
    lora_spec="lora",
    cache_info_spec="info",
    cache_block_size_label_name="size",
    cache_num_blocks_label_name="number",
    cache_block_size_spec="block_tokens",
    cache_num_blocks_spec="blocks",
)


def test_every_field_of_a_users_engine_says_what_to_read() -> None:
    expected = Adapter(
        name="mine",
        signs=(b"q", b"r", b"kv"),
        waiting=(Series(b"q", (("kind", "waiting"),)),),
        running=(Series(b"r"),),
        kv_usage=(Series(b"kv"),),
        lora=Series(b"lora"),
        cache_info=Series(b"info"),
        cache_block_label="size",
        cache_blocks_label="number",
        cache_block_tokens=Series(b"block_tokens"),
        cache_blocks=Series(b"blocks"),
    )
    assert expected == MINE


def test_a_users_engine_has_the_usual_labels_where_it_names_none() -> None:
    usual = my_engine(cache_info_spec="info")
    assert (usual.cache_block_label, usual.cache_blocks_label) == ("block_size", "num_gpu_blocks")


def test_a_users_engine_is_read_and_recognised() -> None:
    page = b'q{kind="waiting"} 2\nq{kind="other"} 9\nr 1\nkv 0.5\ninfo{size="16",number="9"} 1\n'
    assert detect(page, {}, {**ENGINES, "mine": MINE}) == "mine"
    expected = Load(waiting=2, running=1, kv_usage=0.5, cache_block_tokens=16, cache_blocks=9)
    assert read_load(MINE, page, {}, NOW) == expected


NUMBER = st.floats() | st.integers(-3, 10).map(float)
TEXT = st.text(st.sampled_from('0129,Na\\"é'), max_size=25)
NAMES = sorted(
    {s.name.decode() for e in ENGINES.values() for s in (*e.waiting, *e.running, *e.kv_usage)}
    | {"vllm:lora_requests_info", "vllm:cache_config_info", "process_start_time_seconds"}
)
LABELS = [
    "engine",
    "dp_rank",
    "max_lora",
    "running_lora_adapters",
    "block_size",
    "num_gpu_blocks",
    "request_type",
]
LINE = st.builds(
    lambda name, label, text, value: f'{name}{{{label}="{text}"}} {value!r}\n',
    st.sampled_from(NAMES),
    st.sampled_from(LABELS),
    TEXT,
    NUMBER,
)


@pytest.mark.parametrize(
    "page, expected",
    [
        pytest.param("vllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 1\n", {}, id="nothing"),
        pytest.param(
            "vllm:num_requests_waiting NaN\n",
            {"vllm:num_requests_waiting": pytest.approx(float("nan"), nan_ok=True)},
            id="nan",
        ),
        pytest.param("vllm:num_requests_running -3\n", {"vllm:num_requests_running": -3}, id="negative"),
        pytest.param(
            "vllm:kv_cache_usage_perc 1.5\n", {"vllm:kv_cache_usage_perc": 1.5}, id="fuller-than-full"
        ),
        pytest.param(
            'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} -1\n',
            {"vllm:num_requests_waiting": -1},
            id="one-of-two",
        ),
        pytest.param(
            "vllm:kv_cache_usage_perc 0.5\nvllm:gpu_cache_usage_perc 7\n", {}, id="a-series-that-is-not-read"
        ),
        pytest.param("vllm:num_requests_swapped -1\n", {}, id="a-series-that-is-none-of-ours"),
    ],
)
def test_what_cannot_be_is_named(page: str, expected: dict[str, float]) -> None:
    assert impossible(ENGINES["vllm"], page.encode()) == expected


@given(lines=st.lists(LINE | st.just("x" * 5000 + "\n"), max_size=12), name=st.sampled_from(NAMES))
def test_what_is_read_once_is_what_is_read(lines: list[str], name: str) -> None:
    page, where = "".join(lines).encode(), Series(name.encode())
    assert repr([*where.read_steady(page)]) == repr(where.read(page))  # NaN is not NaN


@given(lines=st.lists(LINE, max_size=12), engine=st.sampled_from(sorted(ENGINES)))
@settings(max_examples=250, deadline=None)
def test_what_a_page_tells_and_is_unknown_is_impossible(lines: list[str], engine: str) -> None:
    page, adapter = "".join(lines).encode(), ENGINES[engine]
    load = read_load(adapter, page, {}, NOW)
    for value, alternatives in (
        (load.waiting, adapter.waiting),
        (load.running, adapter.running),
        (load.kv_usage, adapter.kv_usage),
    ):
        read = next((each for each in alternatives if each.read(page)), None)
        if read is not None:
            assert (value is None) is (read.name.decode() in impossible(adapter, page))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["models", "name", "size", "active_requests", "waiting_requests"]), inner
        )
    ),
    max_leaves=12,
).map(json.dumps)


@given(
    lines=st.lists(LINE | st.text(max_size=20), max_size=12) | st.lists(JSON, max_size=1),
    engine=st.sampled_from(sorted(ENGINES)),
)
@settings(max_examples=250, deadline=None)
def test_whatever_a_page_says_a_reading_is_possible_or_unknown(lines: list[str], engine: str) -> None:
    page = "".join(lines).encode("utf-8", "surrogatepass")
    assert detect(page, {}) in (None, *ENGINES)
    load = read_load(ENGINES[engine], page, {"process-start-time-unix": "".join(lines[:1])}, NOW)
    assert all(size >= 0 for size in (load.models or {}).values())
    for count in (load.waiting, load.running):
        assert count is None or (type(count) is int and count >= 0)
    assert load.kv_usage is None or 0 <= load.kv_usage <= 1
    for size in (load.cache_blocks, load.cache_block_tokens, load.started_at):
        assert size is None or size > 0
