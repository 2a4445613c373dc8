"""What pages beside the metrics say: GPU figures and lists of models."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.side_pages import gpu_utilization, listed_models


def page(*samples: str) -> bytes:
    head = "# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\n# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n"
    return (head + "".join(f"DCGM_FI_DEV_GPU_UTIL{sample}\n" for sample in samples)).encode()


def of(text: bytes, name: str = "vllm-0", namespace: str = "default") -> float | None:
    return gpu_utilization(text, name=name, namespace=namespace)


@pytest.mark.parametrize(
    "samples, expected",
    [
        pytest.param(['{gpu="0"} 42'], 0.42, id="one"),
        pytest.param(['{gpu="0"} 42', '{gpu="1"} 87', '{gpu="2"} 0'], 0.87, id="the-busiest"),
        pytest.param(['{gpu="0",pod="vllm-0"} 10', '{gpu="1",pod="vllm-1"} 99'], 0.1, id="the-pods-own"),
        pytest.param(['{gpu="0",pod="vllm-1"} 99'], None, id="of-others-only"),
        pytest.param(['{gpu="0",pod=""} 5', '{gpu="1",pod="vllm-1"} 99'], 0.05, id="of-nobody"),
        pytest.param(
            ['{pod="vllm-0",namespace="other"} 99', '{pod="vllm-0",namespace="default"} 7'], 0.07, id="ns"
        ),
        pytest.param(['{gpu="0"} 100'], 1.0, id="full"),
        pytest.param(['{gpu="0"} NaN', '{gpu="1"} -1', '{gpu="2"} 101'], None, id="what-cannot-be"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_how_busy_the_busiest_gpu_is(samples: list[str], expected: float | None) -> None:
    assert of(page(*samples)) == expected


def test_a_rank_of_a_pod_is_the_pod() -> None:
    text = page('{pod="vllm-0"} 30', '{pod="vllm-1"} 60')
    assert (of(text, "vllm-0-rank-0"), of(text, "vllm-0-rank-7"), of(text, "vllm-1-rank-0")) == (
        0.3,
        0.3,
        0.6,
    )


@given(st.binary(max_size=200) | st.text(max_size=100).map(page))
def test_any_page_is_a_fraction_or_unknown(text: bytes) -> None:
    found = of(text)
    assert found is None or 0.0 <= found <= 1.0


@pytest.mark.parametrize(
    "text, models",
    [
        ('{"object":"list","data":[{"id":"llama","object":"model"}]}', {"llama": ""}),
        ('{"data":[{"id":"base"},{"id":"sql","parent":"base"}]}', {"base": "", "sql": "base"}),
        ('{"data":[{"id":"base","parent":null},{"object":"model"}]}', {"base": ""}),
        ('{"data":[]}', {}),
        ("{}", None),
        ('{"data":null}', None),
        ("[]", None),
        ("not json", None),
        ("[" * 5000, None),
    ],
)
def test_the_models_that_a_server_lists(text: str, models: dict[str, str] | None) -> None:
    assert listed_models(text.encode()) == models


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_answer_is_a_list_or_none(text: bytes) -> None:
    found = listed_models(text)
    assert found is None or all(isinstance(name, str) for name in found)
