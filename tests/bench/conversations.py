"""What Envoy says of one request, as bytes: made here, so that tests need no Envoy."""

import json

from bench import frames
from bench.recording import Recording
from epp.wire.pb import ext_proc_pb2 as pb

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello " * 200}]}).encode()
ANSWER = json.dumps({"usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}).encode()


def request_messages(body: bytes = BODY) -> list[bytes]:
    """A POST in FULL_DUPLEX_STREAMED mode, its body in two pieces."""
    modes = pb.ProtocolConfiguration(
        request_body_mode=pb.FULL_DUPLEX_STREAMED, response_body_mode=pb.FULL_DUPLEX_STREAMED
    )
    half = len(body) // 2
    pairs = {":method": "POST", ":path": "/v1/chat/completions", "x-request-id": "r"}
    said = [
        pb.ProcessingRequest(request_headers=headers(pairs), protocol_config=modes),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=body[:half])),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=body[half:], end_of_stream=True)),
    ]
    return [one.SerializeToString() for one in said]


def response_messages(*pieces: bytes, kind: str = "application/json") -> list[bytes]:
    """An answer in so many pieces, and its end in a message of its own."""
    pairs = {":status": "200", "content-type": kind}
    if kind == "application/json":
        pairs["content-length"] = str(sum(map(len, pieces)))
    said = [
        pb.ProcessingRequest(response_headers=headers(pairs)),
        *(pb.ProcessingRequest(response_body=pb.HttpBody(body=piece)) for piece in pieces),
        pb.ProcessingRequest(response_body=pb.HttpBody(end_of_stream=True)),
    ]
    return [one.SerializeToString() for one in said]


def headers(pairs: dict[str, str]) -> pb.HttpHeaders:
    given = [pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs.items()]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=given))


def conversation(requests: int = 1) -> bytes:
    """So many requests on one HTTP/2 connection, one after the other."""
    said = [frames.PREFACE, frames.settings()]
    for number in range(1, 2 * requests, 2):
        messages = (*request_messages(), *response_messages(ANSWER))
        said += [frames.call(number), *(frames.data(number, frames.message(one)) for one in messages)]
    return b"".join(said)


def a_recording(requests: int = 3) -> Recording:
    whole = conversation(requests)
    return Recording(requests, requests, tuple(whole[at : at + 700] for at in range(0, len(whole), 700)))
