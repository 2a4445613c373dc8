"""Header blocks: read the same whether remembered or not, whatever coder wrote them; and those we send."""

import re

import hpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import frames
from bench.frames import Error, block, call, data, headers, message, request, table_size
from epp.runtime.calls import Code
from epp.runtime.fast.frames import Fault
from epp.runtime.fast.headers import MAX_LIST_BYTES, OK, RESPONSE, HeaderReader, failure
from tests.fast.peer import ECHO, Talk

PLAIN = request(ECHO)

pairs = st.lists(
    st.tuples(
        st.sampled_from(
            ["x-a", "x-b", "grpc-timeout", "content-type", "X-Loud", ":path", "te", "connection"]
        ),
        st.sampled_from(["", "1S", "trailers", "application/grpc", "/p", "x" * 300, "a\nb"])
        | st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    max_size=6,
)
lists = pairs | pairs.map(lambda more: [*PLAIN, *more])


def coded(encoder: hpack.Encoder, given: list[tuple[str, str]], *, huffman: bool, secret: bool) -> bytes:
    kind = hpack.NeverIndexedHeaderTuple if secret else hpack.HeaderTuple
    return bytes(encoder.encode([kind(n.encode("latin-1"), v.encode("latin-1")) for n, v in given], huffman))


@given(
    sent=st.lists(st.tuples(lists, st.booleans(), st.booleans()), min_size=1, max_size=8),
    known_at=st.integers(0, 8),
    follows=st.booleans(),
)
def test_every_coder_says_the_same_before_and_after_the_table_is_gone(
    sent: list[tuple[list[tuple[str, str]], bool, bool]], known_at: int, follows: bool
) -> None:
    """The peer uses its table until it has heard of our settings; then it says so, or just stops using it."""
    reader, encoder = HeaderReader(), hpack.Encoder()
    for number, (given_pairs, huffman, secret) in enumerate(sent):
        plain = block(given_pairs)
        if number == known_at:
            reader.table_is_gone()
            encoder.header_table_size = 0
            encoder.table_size_changes = encoder.table_size_changes if follows else []
        said = reader.read(coded(encoder, given_pairs, huffman=huffman, secret=secret))
        assert said == HeaderReader().read(plain)
        if number >= known_at:
            assert said == reader.read(plain) == reader.read(plain)


@given(
    st.binary(max_size=60),
    st.lists(st.sampled_from([block(PLAIN), hpack.Encoder().encode(PLAIN), table_size(100)])),
)
@example(b"\x3f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", [])
@example(b"\x00\x85" + bytes(5), [])
def test_any_bytes_are_read_or_are_the_peer_s_fault(rubbish: bytes, before: list[bytes]) -> None:
    assert fault_of(b"".join(before) + rubbish) in (None, Error.COMPRESSION_ERROR, Error.ENHANCE_YOUR_CALM)


def fault_of(read: bytes) -> int | None:
    try:
        HeaderReader().read(read)
    except Fault as fault:
        return fault.code
    return None


def test_usual_blocks_are_decoded_once_and_many_others_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    decode = hpack.Decoder.decode

    def counted(self: hpack.Decoder, data: bytes, raw: bool = False) -> object:
        decoded.append(data)
        return decode(self, data, raw)

    monkeypatch.setattr(hpack.Decoder, "decode", counted)
    reader, usual = HeaderReader(), [block([*PLAIN, ("x-cluster", name)]) for name in "abc"]
    reader.table_is_gone()
    for _ in range(10):
        for one in usual:
            reader.read(one)
    assert decoded == usual
    for number in range(5_000):
        reader.read(block([*PLAIN, ("x-request-id", str(number))]))
    assert len(reader._known) < 1_000


@pytest.mark.parametrize(
    "update",
    [pytest.param(table_size(128), id="one"), pytest.param(table_size(128) + table_size(4096), id="two")],
)
def test_a_table_may_change_until_the_peer_has_heard_that_we_want_none(update: bytes) -> None:
    """The cases of h2spec that it sends too late: generic 5, 14 and 15."""
    talk = Talk(acknowledged=False)
    talk.say(headers(1, update + hpack.Encoder().encode(PLAIN)), data(1, message(b"e"), ended=True))
    assert talk[1].status == 0
    talk.say(frames.settings(ack=True), headers(3, update + block(PLAIN)))
    assert talk.fault is Error.COMPRESSION_ERROR
    talk.end()


def test_a_table_that_was_in_use_is_read_until_it_is_gone() -> None:
    talk, encoder = Talk(acknowledged=False), hpack.Encoder()
    for stream in (1, 3, 5):
        coded_block = bytes(encoder.encode([*PLAIN, ("x-same", "again")]))
        talk.say(headers(stream, coded_block), data(stream, message(b"e"), ended=True))
    assert len(coded_block) < 20, "all of it comes from the table"
    encoder.header_table_size = 0
    talk.say(frames.settings(ack=True), headers(7, bytes(encoder.encode(PLAIN))), data(7, ended=True))
    talk.say(call(9, ECHO), data(9, ended=True))
    assert [talk[stream].status for stream in (1, 3, 5, 7, 9)] == [0] * 5
    talk.end()


def test_a_peer_that_wants_no_table_itself_is_told_that_we_use_none() -> None:
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    assert dict(decoder.decode(RESPONSE))[":status"] == "200"
    assert dict(decoder.decode(OK)) == {"grpc-status": "0"}


@given(st.text(max_size=50), st.sampled_from(list(Code)))
def test_a_failure_s_text_survives_its_coding(text: str, code: Code) -> None:
    said = dict(hpack.Decoder().decode(failure(code, text)))
    assert said["grpc-status"] == str(int(code))
    assert said["grpc-message"].isascii() and said["grpc-message"].isprintable()
    read = bytes.fromhex(
        "".join(
            part if n % 2 else part.encode().hex() for n, part in enumerate(_percents(said["grpc-message"]))
        )
    )
    assert read == text.encode("utf-8", "replace")


def _percents(text: str) -> list[str]:
    """Plain and coded parts in turn."""
    return re.split(r"%([0-9A-F]{2})", text)


@pytest.mark.parametrize("length, refused", [(MAX_LIST_BYTES - 400, False), (MAX_LIST_BYTES, True)])
def test_a_header_list_may_be_as_large_as_announced(length: int, refused: bool) -> None:
    talk = Talk()
    whole = block([*PLAIN, ("x-long", "y" * length)])
    first, rest = whole[:60_000], whole[60_000:]
    talk.say(headers(1, first, whole=False), frames.continuation(1, rest), data(1, ended=True))
    assert (talk.fault is Error.ENHANCE_YOUR_CALM) == refused
    assert (talk[1].status == 0) != refused
    talk.end()
