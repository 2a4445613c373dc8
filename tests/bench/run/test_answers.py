import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.run.answers import Answer
from tests.bench.run.chat import DONE, event, usage


def heard(*pieces: bytes) -> Answer:
    answer = Answer()
    for piece in pieces:
        answer.feed(piece)
    return answer


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_an_answer_is_its_text_and_when_each_piece_came() -> None:
    answer = heard(event("one"), event(" two"), usage(8, 5, 2) + DONE)
    assert answer.text == "one two"
    assert len(answer.times) == 2 and answer.times == sorted(answer.times)
    assert (answer.tokens, answer.usage.cached_tokens, answer.usage.prompt_tokens) == (5, 2, 8)


def test_thoughts_are_tokens_but_not_remembered() -> None:
    thought = b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
    answer = heard(thought, event("yes"))
    assert (answer.text, answer.tokens) == ("yes", 2)


def test_llama_cpps_own_counts_are_read() -> None:
    timings = b'data: {"choices":[],"timings":{"prompt_n":6,"cache_n":94,"predicted_n":7}}\n\n'
    answer = heard(event("x"), timings)
    assert (answer.tokens, answer.usage.prompt_tokens, answer.usage.cached_tokens) == (7, 100, 94)


def test_what_is_no_event_tells_nothing() -> None:
    answer = heard(b": ping\n\ndata: nonsense\n\ndata: [1]\n\ndata: {}\n\n", b"event: x\n", event("y"))
    assert (answer.text, answer.tokens) == ("y", 1)


@given(
    texts=st.lists(st.text(max_size=8), max_size=6),
    ends=st.sampled_from([b"\n", b"\r\n"]),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_however_a_stream_is_cut_it_says_the_same(texts: list[str], ends: bytes, places: list[int]) -> None:
    data = b"".join(map(event, texts)) + usage(10, len(texts), 3) + DONE
    data = data.replace(b"\n", ends)
    answer = heard(*cut(data, places))
    assert answer.text == "".join(texts)
    assert len(answer.times) == sum(bool(text) for text in texts)
    assert answer.usage.cached_tokens == 3 and answer.tokens == len(texts)


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    answer = heard(*pieces, b"\n")
    assert isinstance(answer.text, str) and answer.tokens >= 0


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_breaks_it(value: object) -> None:
    answer = heard(b"data: " + json.dumps({"choices": value}).encode() + b"\n\n")
    assert answer.tokens >= 0
