from typing import Any

import pytest

from epp.core.fleet import Endpoint, Load
from epp.core.request import Payload, Request
from epp.core.scoring import PrefixMatch
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.inflight_load_producer import InflightLoadProducer
from tests.picking import cycle_of, endpoints_of, prompt_of

NAME = "approx-prefix-cache-producer"


def ask(producer: ApproxPrefixCacheProducer, request: Request, *endpoints: Any) -> PrefixMatch:
    """What the producer tells others."""
    cycle = cycle_of(request)
    producer.produce(cycle, endpoints, NAME)
    match = cycle.facts[NAME]
    assert isinstance(match, PrefixMatch)
    return match


def send(producer: ApproxPrefixCacheProducer, request: Request, endpoint: Endpoint) -> None:
    """The request goes there."""
    cycle = cycle_of(request)
    producer.picked(cycle, endpoint, producer.produce(cycle, [endpoint], NAME))


def test_a_prompt_is_found_where_it_went() -> None:
    producer, (a, b) = ApproxPrefixCacheProducer(), endpoints_of(Load(), Load())
    match = ask(producer, prompt_of("x" * 1000), a, b)
    assert (match.total_blocks, match.block_tokens, dict(match.blocks)) == (4, 64, {})
    send(producer, prompt_of("x" * 1000), b)
    assert ask(producer, prompt_of("x" * 1000), a, b).blocks == {b: 4}


def test_a_conversation_that_went_on_keeps_its_whole_blocks() -> None:
    producer, (a,) = ApproxPrefixCacheProducer(), endpoints_of(Load())
    send(producer, prompt_of("x" * 1000), a)  # 3 whole blocks of 256 bytes and a part
    match = ask(producer, prompt_of("x" * 1000 + "and more"), a)
    assert (dict(match.blocks), match.total_blocks) == ({a: 3}, 4)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(prompt_of("x" * 1000, model="n"), id="another-model"),
        pytest.param(prompt_of("x" * 1000, salt="s"), id="another-salt"),
        pytest.param(prompt_of("y" + "x" * 999), id="another-beginning"),
        pytest.param(prompt_of(""), id="no-prompt"),
    ],
)
def test_other_prompts_share_nothing(other: Request) -> None:
    producer, (a,) = ApproxPrefixCacheProducer(), endpoints_of(Load())
    send(producer, prompt_of("x" * 1000), a)
    assert ask(producer, other, a).blocks == {}
    send(producer, other, a)
    assert ask(producer, prompt_of("x" * 1000), a).blocks == {a: 4}


@pytest.mark.parametrize(
    "asked, target, held",
    [
        pytest.param("m", "n", {}, id="same-name-other-model"),
        pytest.param("other", "m", {"e0": 4}, id="other-name-same-model"),
    ],
)
def test_a_cache_is_of_the_model_that_serves_not_of_the_one_asked_for(
    asked: str, target: str, held: dict[str, int]
) -> None:
    producer, (a,) = ApproxPrefixCacheProducer(), endpoints_of(Load())
    send(producer, prompt_of("x" * 1000, model="m"), a)
    payload = Payload(model=asked, prompt=b"x" * 1000)
    match = ask(producer, Request(payload=payload, target_model=target), a)
    assert {endpoint.name: blocks for endpoint, blocks in match.blocks.items()} == held


@pytest.mark.parametrize(
    "parameters, blocks",
    [
        pytest.param({}, 40, id="whole"),
        pytest.param({"block_size_tokens": 128}, 20, id="larger-blocks"),
        pytest.param({"block_size": 128}, 20, id="the-old-name"),
        pytest.param({"block_size_tokens": 8}, 40, id="never-below-64-tokens"),
        pytest.param({"max_prefix_tokens_to_match": 640}, 10, id="at-most-so-many-tokens"),
        pytest.param(
            {"max_prefix_tokens_to_match": 640, "max_prefix_blocks_to_match": 5}, 10, id="tokens-win"
        ),
        pytest.param({"max_prefix_tokens_to_match": 0, "max_prefix_blocks_to_match": 5}, 5, id="blocks"),
        pytest.param({"max_prefix_tokens_to_match": 0, "max_prefix_blocks_to_match": 0}, 40, id="unlimited"),
    ],
)
def test_parameters_bound_what_is_looked_at(parameters: dict[str, Any], blocks: int) -> None:
    producer = ApproxPrefixCacheProducer(**parameters)
    assert ask(producer, prompt_of("x" * 10240)).total_blocks == blocks


@pytest.mark.parametrize(
    "parameters, held, charge",
    [
        pytest.param({}, 0, 256, id="the-whole-prompt"),
        pytest.param({}, 3, 64, id="without-the-cached-part"),
        pytest.param({}, 9, 0, id="never-below-zero"),
        pytest.param({"add_estimated_output_tokens": True}, 0, 640, id="and-1.5-times-as-much-output"),
        pytest.param(
            {"add_estimated_output_tokens": True, "max_estimated_output_tokens": 100},
            0,
            356,
            id="output-limit",
        ),
        pytest.param(
            {"add_estimated_output_tokens": True, "output_ratio": 3.0}, 0, 756, id="request's-limit"
        ),
    ],
)
def test_inflight_load_books_the_uncached_tokens(parameters: dict[str, Any], held: int, charge: int) -> None:
    (endpoint,) = endpoints_of(Load())
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * 1024, max_output_tokens=500)))
    cycle.facts[NAME] = PrefixMatch({endpoint: held}, 4, 64)
    producer = InflightLoadProducer(**parameters)
    producer.picked(cycle, endpoint, producer.produce(cycle, [endpoint], "inflight-load-producer"))
    assert cycle.charge == charge


def test_inflight_load_books_all_where_nothing_is_known_of_prefixes() -> None:
    (endpoint,) = endpoints_of(Load())
    cycle = cycle_of(prompt_of("x" * 1001))
    InflightLoadProducer().picked(cycle, endpoint, None)
    assert cycle.charge == 251
