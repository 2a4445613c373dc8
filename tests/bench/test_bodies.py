import itertools
import json
import random

import pytest

from bench.bodies import GROUPS, bodies


def first(count: int, size: int, *, streaming: bool) -> list[bytes]:
    calls = bodies(size, streaming=streaming, rng=random.Random(1))
    return [b"".join(call.parts) for call in itertools.islice(calls, count)]


@pytest.mark.parametrize("size", [1024, 8192, 220 * 1024])
@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "json"])
def test_bodies_have_the_size_asked_for_and_none_is_like_another(size: int, streaming: bool) -> None:
    made = first(70, size, streaming=streaming)
    assert {len(body) for body in made} == {size}
    assert len(set(made)) == 70
    assert {json.loads(body)["stream"] for body in made} == {streaming}


def test_bodies_share_a_beginning_with_all_and_more_with_some() -> None:
    made = first(64, 8192, streaming=False)
    messages = [json.loads(body)["messages"] for body in made]
    assert len({one[0]["content"] for one in messages}) == 1
    assert len({one[1]["content"] for one in messages}) == GROUPS
    assert len({body[: 8192 // 5] for body in made}) == 1
    assert len({one[-1]["content"] for one in messages}) == 64
