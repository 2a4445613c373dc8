import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.http1 import HEAD_LIMIT, LINE_LIMIT, ProtocolError, Reader, header, status_of


class Heard:
    """A sink that writes down what it was told; body pieces that follow each other count as one."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    def on_head(self, head: bytes) -> None:
        self.told.append(("head", head))

    def on_body(self, data: bytes) -> None:
        if self.told[-1][0] == "body":
            data = self.told.pop()[1] + data
        self.told.append(("body", data))

    def on_end(self) -> None:
        self.told.append(("end", b""))


def read(*pieces: bytes, responses: bool = True) -> tuple[list[tuple[str, bytes]], Reader]:
    heard = Heard()
    reader = Reader(heard, responses=responses)
    for piece in pieces:
        reader.feed(piece)
    return heard.told, reader


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


OK = b"HTTP/1.1 200 OK"
END = ("end", b"")


@pytest.mark.parametrize(
    "data, told",
    [
        pytest.param(
            OK + b"\r\nContent-Length: 3\r\n\r\nabc",
            [("head", OK + b"\r\nContent-Length: 3"), ("body", b"abc"), END],
            id="length",
        ),
        pytest.param(
            OK + b"\r\ncontent-length: 0\r\n\r\n", [("head", OK + b"\r\ncontent-length: 0"), END], id="empty"
        ),
        pytest.param(
            OK + b"\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"
            b"2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\n",
            [("head", OK + b"\r\nTransfer-Encoding: gzip, Chunked"), ("body", b"ab0123456789"), END],
            id="chunks-and-trailers",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\ncontent-length: 0\r\n\r\n", None, id="interim"
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\n\r\n", [("head", b"HTTP/1.1 204 No Content"), END], id="204"
        ),
    ],
)
def test_a_response_ends_where_its_head_says(data: bytes, told: list[tuple[str, bytes]] | None) -> None:
    expected = told or [("head", OK + b"\r\ncontent-length: 0"), END]
    assert read(data)[0] == expected
    assert read(*[bytes([byte]) for byte in data])[0] == expected


def test_a_response_without_length_ends_with_the_connection() -> None:
    told, reader = read(OK + b"\r\n\r\nall", b" of it")
    assert told == [("head", OK), ("body", b"all of it")]
    assert reader.eof()


def test_a_close_inside_a_message_is_told() -> None:
    assert not read(OK + b"\r\ncontent-length: 9\r\n\r\nabc")[1].eof()
    assert not read(OK[:8])[1].eof()
    assert read(OK + b"\r\ncontent-length: 0\r\n\r\n")[1].eof()


def test_a_request_without_length_has_no_body() -> None:
    told, _ = read(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n", responses=False)
    assert told == [("head", b"GET /a HTTP/1.1"), END, ("head", b"GET /b HTTP/1.1"), END]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-OpenSSH", id="another-protocol"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", id="status"),
        pytest.param(OK + b"\r\ncontent-length: -3\r\n\r\n", id="negative-length"),
        pytest.param(OK + b"\r\ncontent-length: 0x3\r\n\r\n", id="hexadecimal-length"),
        pytest.param(OK + b"\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="chunk-size"),
        pytest.param(OK + b"\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n", id="chunk-too-long"),
        pytest.param(OK + b"\r\nx: " + b"y" * HEAD_LIMIT + b"\r\n\r\n", id="endless-head"),
        pytest.param(
            OK + b"\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"y" * LINE_LIMIT + b"\r\n", id="endless-line"
        ),
    ],
)
@pytest.mark.parametrize("step", [1_000_000, 1_000], ids=["whole", "in-pieces"])
def test_what_is_not_http_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(ProtocolError):
        read(*[data[start : start + step] for start in range(0, len(data), step)])


def test_headers_are_found_in_any_case() -> None:
    head = OK + b"\r\nX-Served-By:  8001 \r\nA: b"
    assert header(head, b"x-served-by") == b"8001"
    assert header(head, b"a") == b"b"
    assert header(head, b"served-by") is None
    assert status_of(head) == 200


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One well-formed response."""
    body = draw(st.binary(max_size=300))
    extra = draw(st.sampled_from([b"", b"\r\nx-served-by: 1", b"\r\nserver: envoy"]))
    if draw(st.booleans()):
        return OK + extra + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece)
        for piece in split(body, draw(st.lists(st.integers(0, 300), max_size=4)))
        if piece
    )
    trailers = draw(st.sampled_from([b"", b"x: 1\r\n"]))
    return OK + extra + b"\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


@settings(deadline=None)
@given(data=st.lists(messages(), max_size=3).map(b"".join), cuts=st.lists(st.integers(0, 3_000), max_size=30))
def test_chunking_never_changes_what_is_heard(data: bytes, cuts: list[int]) -> None:
    whole, reader = read(data)
    assert reader.between_messages
    assert read(*split(data, cuts))[0] == whole


def outcome(pieces: list[bytes]) -> tuple[list[tuple[str, bytes]], bool]:
    heard = Heard()
    reader = Reader(heard, responses=True)
    try:
        for piece in pieces:
            reader.feed(piece)
    except ProtocolError:
        return heard.told, True
    return heard.told, False


@settings(deadline=None)
@given(
    data=st.lists(
        st.sampled_from(
            [OK, b"\r\n", b"content-length: 2", b"transfer-encoding: chunked", b"2", b"ab", b"0", b"x"]
        )
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=20),
)
def test_neither_does_it_for_what_is_malformed(data: bytes, cuts: list[int]) -> None:
    whole, whole_refused = outcome([data])
    told, refused = outcome(split(data, cuts))
    assert refused == whole_refused
    # What came before the fault is heard in both; a body piece may stop at the fault or before it.
    assert [kind for kind, _ in told] == [kind for kind, _ in whole]
