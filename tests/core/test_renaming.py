"""The name of a model in a response, however the response is cut."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.core.renaming import Renamer


def renamed(*pieces: bytes, target: str = "qwen-v2", shown: str = "qwen") -> list[bytes]:
    renamer = Renamer(target, shown)
    return [*(renamer.feed(piece) for piece in pieces), renamer.rest()]


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"id":1,"model":"qwen-v2","x":2}', b'{"id":1,"model":"qwen","x":2}'),
        (b'{"model": "qwen-v2"}', b'{"model": "qwen"}'),
        (b'{"message":{"model":"qwen-v2"}}', b'{"message":{"model":"qwen"}}'),
        (b'{"model":"qwen-v2-lora"}', b'{"model":"qwen-v2-lora"}'),
        (b'{"text":"\\"model\\":\\"qwen-v2\\""}', b'{"text":"\\"model\\":\\"qwen-v2\\""}'),
        (b'{"content":"qwen-v2"}', b'{"content":"qwen-v2"}'),
    ],
)
def test_only_the_name_of_the_model_changes(body: bytes, expected: bytes) -> None:
    assert b"".join(renamed(body)) == expected


def test_what_is_certain_does_not_wait() -> None:
    assert renamed(b'data: {"a":1,"mod', b'el":"qwen', b'-v2","b":2}\n\n', b"data: [DONE]\n\n") == [
        b'data: {"a":1,',
        b"",
        b'"model":"qwen","b":2}\n\n',
        b"data: [DONE]\n\n",
        b"",
    ]


def test_a_beginning_that_comes_to_nothing_is_passed_on() -> None:
    assert renamed(b'{"model":"qw', b'ant"}', b'"') == [b"{", b'"model":"qwant"}', b"", b'"']


def test_names_with_quotes_and_backslashes() -> None:
    body = b'{"model":"a\\"b\\\\1"}'
    assert b"".join(renamed(body, target='a"b\\1', shown='\\g<0>"')) == b'{"model":"\\\\g<0>\\""}'


WORDS = [b'"model":"x"', b'"model": "x"', b'"model":', b'"model": ', b'"x"', b'"', b"x", b'"model', b'"xy"']


@given(words=st.lists(st.sampled_from(WORDS), max_size=6), cuts=st.lists(st.integers(0, 50), max_size=4))
@example(words=[b'"model":"x"', b","], cuts=[11])
def test_cutting_changes_nothing(words: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(words)
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(at)]
    expected = re.sub(rb'"model":( ?)"x"', rb'"model":\1"long"', whole)
    assert b"".join(renamed(*pieces, target="x", shown="long")) == expected
