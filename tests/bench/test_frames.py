"""Frames as a peer writes and reads them: whole in any cut, and as other people's code understands them."""

import hpack
import hyperframe.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import frames
from bench.frames import Error, Frame, FrameReader, Kind, Replies, block, integer, message

any_frame = st.builds(
    Frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=100),
)


@given(st.lists(any_frame, max_size=8), st.integers(1, 50))
def test_frames_are_read_as_they_are_written_however_they_are_cut(said: list[Frame], step: int) -> None:
    reader, whole = FrameReader(), b"".join(map(bytes, said))
    cut = (whole[at : at + step] for at in range(0, len(whole), step))
    assert [one for piece in cut for one in reader.feed(piece)] == said
    assert not reader.rest


def parsed(some: bytes) -> hyperframe.frame.Frame:
    read, length = hyperframe.frame.Frame.parse_frame_header(memoryview(some[:9]))
    assert length == len(some) - 9
    read.parse_body(memoryview(some[9:]))
    return read


def test_other_people_read_the_same() -> None:
    assert parsed(frames.settings({4: 7, 5: 20_000})).settings == {4: 7, 5: 20_000}
    assert parsed(frames.window_update(3, 99)).window_increment == 99
    assert parsed(frames.reset(5, Error.CANCEL)).error_code == 8
    assert parsed(frames.ping(b"abcdefgh", ack=True)).opaque_data == b"abcdefgh"
    goaway = parsed(frames.goaway(7, Error.ENHANCE_YOUR_CALM, b"why"))
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (7, 11, b"why")
    padded = parsed(frames.data(1, b"x", ended=True, padding=5))
    assert (padded.data, padded.pad_length, sorted(padded.flags)) == (b"x", 5, ["END_STREAM", "PADDED"])
    first = parsed(
        frames.headers(1, b"block", padding=2, priority=frames.priority_bytes(9, 200), whole=False)
    )
    assert (first.data, first.depends_on, first.stream_weight) == (b"block", 9, 200)
    assert sorted(first.flags) == ["PADDED", "PRIORITY"]


@given(
    st.lists(st.tuples(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255))))
)
def test_blocks_say_what_they_were_made_of(pairs: list[tuple[str, str]]) -> None:
    read = hpack.Decoder().decode(block(pairs), raw=True)
    assert [(name.decode("latin-1"), value.decode("latin-1")) for name, value in read] == pairs


@given(st.integers(0, 2**40), st.integers(1, 8))
def test_integers_are_those_of_hpack(value: int, prefix: int) -> None:
    assert integer(value, prefix) == bytes(hpack.hpack.encode_integer(value, prefix))


def test_replies_collect_by_stream() -> None:
    replies = Replies()
    answer = frames.headers(1, block([(":status", "200")])) + frames.data(
        1, message(b"one") + message(b"")[:3]
    )
    replies.feed(
        answer
        + frames.data(1, message(b"")[3:])
        + frames.headers(1, block([("grpc-status", "7")]), ended=True)
    )
    replies.feed(frames.reset(3, Error.REFUSED_STREAM) + frames.goaway())
    assert (replies[1].messages, replies[1].status, replies[1].ended) == ([b"one", b""], 7, True)
    assert replies[3].reset is Error.REFUSED_STREAM and replies[3].is_over
    assert len(replies.goaways) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(frames.data(1, b"x"), id="data before headers"),
        pytest.param(
            frames.headers(1, block([]), ended=True) + frames.headers(1, block([])), id="after the end"
        ),
        pytest.param(frames.headers(1, block([]), whole=False), id="half a block"),
    ],
)
def test_replies_complain_of_what_makes_no_sense(wrong: bytes) -> None:
    with pytest.raises(AssertionError):
        Replies().feed(wrong)


def test_a_frame_may_lie_about_its_length() -> None:
    assert frames.frame(Kind.DATA, 0, 1, b"abc", length=2**24 - 1)[:3] == b"\xff\xff\xff"
