"""What a gateway says of a request and its response in ext_proc, and where the picker sends it.

Place:   for those who speak to a picker by bench.gateway: bench.soak, bench.requests.
Ignores: how messages travel.
"""

from epp.wire.pb import ext_proc_pb2 as pb

DESTINATION = "x-gateway-destination-endpoint"


def headers_message(part: str, *pairs: tuple[str, str], ended: bool = False) -> bytes:
    """``part``: request_headers or response_headers."""
    values = [pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs]
    found = pb.HttpHeaders(headers=pb.HeaderMap(headers=values), end_of_stream=ended)
    request = pb.ProcessingRequest()
    getattr(request, part).CopyFrom(found)
    return request.SerializeToString()


def body_message(part: str, data: bytes, *, ended: bool) -> bytes:
    """``part``: request_body or response_body."""
    request = pb.ProcessingRequest()
    getattr(request, part).CopyFrom(pb.HttpBody(body=data, end_of_stream=ended))
    return request.SerializeToString()


def destination(answer: bytes) -> str:
    """Where the picker's first answer sends a request; ValueError with what it says where it refuses."""
    response = pb.ProcessingResponse.FromString(answer)
    if not response.HasField("request_headers"):
        raise ValueError(f"no endpoint was picked: {response.immediate_response.body.decode()}")
    options = response.request_headers.response.header_mutation.set_headers
    return next(one.header.raw_value.decode() for one in options if one.header.key == DESTINATION)
