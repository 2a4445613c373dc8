"""The quick reading is the whole reading: the same event of every message, usual or not, whole or not."""

from collections.abc import Callable

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.core.events import BodyMode, Event, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from epp.wire import ext_proc, usual
from epp.wire.pb import ext_proc_pb2 as pb

SUBSET = ("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset")
SERVED = ("envoy.lb", "x-gateway-destination-endpoint-served")


def read(by: Callable[[bytes], Event | None], data: bytes) -> Event | str | None:
    try:
        return by(data)
    except ext_proc.WireError as fault:
        return str(fault)


def same(data: bytes) -> Event | str | None:
    found = read(ext_proc.event, data)
    assert read(usual.event, data) == found
    return found


# --- any message -------------------------------------------------------------------------------------

sizes = st.integers(0, 300) | st.sampled_from([126, 127, 128, 16_380, 16_384, 49_152, 2_097_152])
names = st.sampled_from(["a", ":path", "X-Mixed", "x-request-id", "x-" + "n" * 200]) | st.text(max_size=5)
values = st.binary(max_size=20) | st.sampled_from(
    [b"v" * 120, b"v" * 300, b"v" * 17_000, b"\n\x05:path\x1a\x01x"]
)


@st.composite
def header_maps(draw: st.DrawFn) -> pb.HeaderMap:
    pairs = draw(st.lists(st.tuples(names, values, st.booleans()), max_size=8))
    return pb.HeaderMap(
        headers=[
            pb.HeaderValue(key=name, raw_value=value) if raw else pb.HeaderValue(key=name, value=value)
            for name, value, raw in pairs
        ]
    )


@st.composite
def messages(draw: st.DrawFn) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    kinds = ["request_headers", "response_headers", "request_body", "response_body"]
    kind = draw(st.sampled_from([*kinds, *kinds, "request_trailers", "response_trailers"]))
    part = getattr(message, kind)
    part.SetInParent()
    if kind.endswith("headers"):
        part.headers.CopyFrom(draw(header_maps()))
    if kind.endswith("trailers"):
        part.trailers.CopyFrom(draw(header_maps()))
    else:
        part.end_of_stream = draw(st.booleans())
    if kind.endswith("body"):
        part.body = draw(st.sampled_from([b"b", b"\x10\x01", b"\n"])) * draw(sizes)
    if draw(st.booleans()):  # Envoy sends it with every message, mostly empty
        message.metadata_context.SetInParent()
        for namespace, key in draw(st.lists(st.sampled_from([SUBSET, SERVED]), max_size=2)):
            told = Struct()
            told[key] = draw(st.sampled_from(["10.0.0.1:80", "a, b", "", ["a", "b"], 7, "x" * 400]))
            message.metadata_context.filter_metadata[namespace].CopyFrom(told)
    if draw(st.integers(0, 2)) == 0:
        message.protocol_config.request_body_mode = draw(st.sampled_from([0, 1, 2, 3, 4, 77]))
        message.protocol_config.response_body_mode = draw(st.sampled_from([0, 4]))
    message.observability_mode = draw(st.integers(0, 5)) == 0
    return message


@given(messages())
def test_of_every_message(message: pb.ProcessingRequest) -> None:
    same(message.SerializeToString())


@given(st.lists(messages(), min_size=2, max_size=3))
def test_of_messages_in_a_row_which_are_one_message(several: list[pb.ProcessingRequest]) -> None:
    same(b"".join(one.SerializeToString() for one in several))


@given(messages(), st.data())
def test_of_a_message_cut_off(message: pb.ProcessingRequest, data: st.DataObject) -> None:
    whole = message.SerializeToString()
    same(whole[: data.draw(st.integers(0, len(whole)))])


@given(messages(), st.data())
def test_of_a_message_damaged(message: pb.ProcessingRequest, data: st.DataObject) -> None:
    whole = message.SerializeToString()
    at = data.draw(st.integers(0, min(len(whole), 60)) | st.integers(0, len(whole)))
    same(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :])


TAGS = [b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x42", b"\x5a", b"\x0a", b"\x10", b"\x18", b""]


@settings(max_examples=300)
@given(st.sampled_from(TAGS), st.binary(max_size=40), st.sampled_from(TAGS), st.binary(max_size=10))
@example(b"\x2a", b"\x80\x80\x80\x80\x10", b"", b"")  # a length of four bytes and more
@example(b"\x12", b"\x06\x0a\x04\x18\x01\x18\x01", b"", b"")  # no header where one is expected
@example(
    b"\x12", b"\x0a\x0a\x08\x18\x05\x0a\x00\x0a\x00\x18\x01", b"", b""
)  # two headers in the place of one
def test_of_any_bytes(tag: bytes, some: bytes, other: bytes, more: bytes) -> None:
    same(tag + some + other + more)


# --- the usual ones ----------------------------------------------------------------------------------

MODES = pb.ProtocolConfiguration(request_body_mode=4, response_body_mode=4)  # type: ignore[arg-type]
GET = [(":method", b"GET"), (":path", b"/v1/models"), ("x-request-id", b"r-1"), ("authorization", b"t" * 900)]


def http_headers(*pairs: tuple[str, bytes]) -> pb.HttpHeaders:
    entries = [pb.HeaderValue(key=key, raw_value=value) for key, value in pairs]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=entries))


USUAL: dict[str, tuple[pb.ProcessingRequest, Event]] = {
    "request headers": (
        pb.ProcessingRequest(request_headers=http_headers(*GET), protocol_config=MODES),
        RequestHeaders(
            {name: value.decode() for name, value in GET}, None, BodyMode.FULL_DUPLEX, BodyMode.FULL_DUPLEX
        ),
    ),
    "response headers": (
        pb.ProcessingRequest(response_headers=http_headers((":status", b"200"))),
        ResponseHeaders({":status": "200"}),
    ),
    "a piece of a request": (
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x" * 9)),
        RequestBody(b"x" * 9),
    ),
    "its end": (pb.ProcessingRequest(request_body=pb.HttpBody(end_of_stream=True)), RequestBody(b"", True)),
    "a large piece": (
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x" * 49_152)),
        ResponseBody(b"x" * 49_152),
    ),
    "a last piece": (
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x" * 300, end_of_stream=True)),
        ResponseBody(b"x" * 300, True),
    ),
    "an empty piece": (pb.ProcessingRequest(response_body=pb.HttpBody()), ResponseBody(b"")),
}


@pytest.mark.parametrize("metadata", [None, {}, {SERVED: "10.0.0.1:80"}], ids=["none", "empty", "served"])
@pytest.mark.parametrize("name", USUAL)
def test_the_usual_is_read_quickly(
    name: str, metadata: dict[tuple[str, str], str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what comes before would compare the whole reading with itself."""
    message, event = USUAL[name]
    message = pb.ProcessingRequest.FromString(message.SerializeToString())
    if metadata is not None:
        message.metadata_context.SetInParent()
        for (namespace, key), value in metadata.items():
            message.metadata_context.filter_metadata[namespace][key] = value
    data = message.SerializeToString()
    first = same(data)  # what is the same each time is remembered now
    if not (metadata and name == "response headers"):
        assert first == event
    monkeypatch.setattr(ext_proc, "event", lambda data: pytest.fail("not read quickly"))
    assert usual.event(data) == first


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usual, "_REMEMBERED_HEADERS", 10)
    for number in range(40):
        same(pb.ProcessingRequest(request_headers=http_headers(("n", b"%d" % number))).SerializeToString())
        same(pb.ProcessingRequest(request_headers=http_headers(("n", b"9" * 300))).SerializeToString())
        assert len(usual._known_headers) <= 10
