"""The two vocabularies of one request's conversation: events come in, actions go out.

Place:   epp.wire turns gateway messages into events and answers into messages; epp.core.stream is
         the machine between them; the driver carries out what is not told to the gateway.
Rule:    wire forms with one meaning are one event, whatever the gateway's spelling.
Source:  envoy/service/ext_proc/v3/external_processor.proto
"""

import enum
from collections.abc import Mapping, Sequence

import msgspec

from epp.core.fleet import Endpoint
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.response_reader import Usage
from epp.core.scheduling import Decision


class BodyMode(enum.Enum):
    """How the gateway hands over a body, and so what answer it expects (ProcessingMode)."""

    NONE = "none"
    STREAMED = "streamed"
    BUFFERED = "buffered"
    BUFFERED_PARTIAL = "buffered partial"
    FULL_DUPLEX = "full duplex streamed"


class _Said(msgspec.Struct, frozen=True, gc=False):
    """One event or action. A msgspec struct is made in a twelfth of a frozen dataclass's time (50 ns against
    600 ns), and a request is some twenty of them; none is part of a reference cycle."""


class ResponsePhase(enum.Enum):
    """How much of the responses the picker asks to be shown."""

    FULL = "full"
    HEADERS = "headers"
    NONE = "none"


class End(enum.Enum):
    """What carried the end of a request or response."""

    HEADERS = "headers"
    BODY = "body"
    TRAILERS = "trailers"


# --- events ------------------------------------------------------------------------------------


class RequestHeaders(_Said, frozen=True):
    """Always the first event of a request. Body modes are FULL_DUPLEX where the gateway names none."""

    headers: Mapping[str, str]
    subset: tuple[str, ...] | None = None
    request_mode: BodyMode = BodyMode.FULL_DUPLEX
    response_mode: BodyMode = BodyMode.FULL_DUPLEX
    ended: bool = False


class RequestBody(_Said, frozen=True):
    """A piece of the request body, possibly empty; ``ended``: it is the last one."""

    data: bytes
    ended: bool = False
    subset: tuple[str, ...] | None = None


class RequestTrailers(_Said, frozen=True):
    """The request ended, and its trailers want an answer of their own."""

    subset: tuple[str, ...] | None = None


class Picked(_Said, frozen=True):
    """The answer to Pick: where the request goes."""

    decision: Decision


class Refused(_Said, frozen=True):
    """The answer to Pick: nowhere, and why."""

    rejection: Rejection


class Evicted(_Said, frozen=True):
    """The request has to make room for others, although it has a server: the client is told so instead."""

    rejection: Rejection


class ResponseHeaders(_Said, frozen=True):
    """The server answered; ``served``: the endpoint that really did, where the gateway says so."""

    headers: Mapping[str, str]
    served: str | None = None
    ended: bool = False
    response_mode: BodyMode | None = None
    """Known only when the conversation begins here (no request phase)."""


class ResponseBody(_Said, frozen=True):
    """A piece of the response body."""

    data: bytes
    ended: bool = False


class ResponseTrailers(_Said, frozen=True):
    """The response ended, and its trailers want an answer of their own."""


class StreamClosed(_Said, frozen=True):
    """The gateway closed, cancelled or lost the stream; always the last event, exactly once."""


Event = (
    RequestHeaders
    | RequestBody
    | RequestTrailers
    | Picked
    | Refused
    | Evicted
    | ResponseHeaders
    | ResponseBody
    | ResponseTrailers
    | StreamClosed
)


# --- actions: for the driver -------------------------------------------------------------------


class Pick(_Said, frozen=True):
    """Choose an endpoint and reserve on it; answer with Picked or Refused."""

    request: Request


class Prefilled(_Said, frozen=True):
    """The first token came: the prompt is no work ahead of anyone any more."""

    decision: Decision


class Release(_Said, frozen=True):
    """The request occupies its endpoint no longer. Exactly one per Picked."""

    decision: Decision
    output_tokens: int | None = None
    """Of a whole answer, as the server counted them."""


class Moved(_Said, frozen=True):
    """The gateway went on to another endpoint, which has the request now."""

    decision: Decision
    endpoint: Endpoint


class Served(_Said, frozen=True):
    """The endpoint gave a good answer, as far as its first token; once for each request at most."""

    endpoint: Endpoint


class _Blame(_Said, frozen=True):
    """An answer says something bad about its endpoint: at most one of these of an endpoint in a request. It
    may come behind a Served, never before one."""

    endpoint: Endpoint
    reason: str
    sent_at: float
    """When the request was picked [s]."""


class Failed(_Blame, frozen=True):
    """The endpoint did not do what was asked of it."""


class Late(_Blame, frozen=True):
    """The gateway gave up waiting for the endpoint's answer, which may only be long."""


class Quitting(_Blame, frozen=True):
    """The endpoint said that it shuts down."""


class Busy(_Blame, frozen=True):
    """The endpoint refused the request because its queue is full: it is well."""


class Finished(_Said, frozen=True):
    """The conversation is over: the facts for metrics and the log line."""

    outcome: "Outcome"


# --- actions: answers to the gateway -------------------------------------------------------------


class Override(_Said, frozen=True):
    """Part of an answer to headers: the gateway need not show the response's body any more, nor its headers
    unless ``response_headers``. ``request_mode`` stays as it is; the protocol wants it said again."""

    request_mode: BodyMode
    response_headers: bool


class ContinueRequestHeaders(_Said, frozen=True):
    """Go on without a decision yet (BUFFERED: the pick rides on the body's answer)."""

    override: Override | None = None


class AnswerRequestHeaders(_Said, frozen=True):
    """Where to send the request. ``content_length``: of the body that follows, None without one."""

    addresses: Sequence[str]
    content_length: int | None = None
    request_id: str | None = None
    """Set on the upstream request where the client sent none."""
    override: Override | None = None
    headers: Mapping[str, str | None] | None = None
    """Further ones to be set on the request; None: to be taken away."""
    scores: Mapping[str, float] | None = None
    """By address, what each candidate scored; None: the gateway need not know."""


class AnswerBufferedBody(_Said, frozen=True):
    """The decision in the answer to a whole body; ``body``: its replacement, None to keep it."""

    addresses: Sequence[str]
    body: bytes | None = None
    request_id: str | None = None
    headers: Mapping[str, str | None] | None = None
    scores: Mapping[str, float] | None = None
    """Both as of AnswerRequestHeaders."""


class AnswerRequestBody(_Said, frozen=True):
    """One piece of the request body on its way to the server (FULL_DUPLEX)."""

    data: bytes
    ended: bool


class ContinueRequestBody(_Said, frozen=True):
    """Let a body piece pass as it is (STREAMED, or a piece that came late)."""


class AnswerRequestTrailers(_Said, frozen=True):
    """Let the request's trailers pass."""


class AnswerResponseHeaders(_Said, frozen=True):
    """Let the response's headers pass; ``without_length``: its body will have another length."""

    override: Override | None = None
    without_length: bool = False
    headers: Mapping[str, str] | None = None
    """To be set on the response."""


Metadata = Mapping[str, Mapping[str, float]]
"""What the gateway is told beside an answer (dynamic metadata): values by namespace and key."""


class AnswerResponseBody(_Said, frozen=True):
    """One piece of the response body on its way to the client (FULL_DUPLEX)."""

    data: bytes
    ended: bool
    metadata: Metadata | None = None


class ContinueResponseBody(_Said, frozen=True):
    """Let a response body piece pass as it is (STREAMED, BUFFERED)."""

    metadata: Metadata | None = None


class AnswerResponseTrailers(_Said, frozen=True):
    """Let the response's trailers pass."""

    metadata: Metadata | None = None


class Reject(_Said, frozen=True):
    """Answer the client at once, without a server."""

    rejection: Rejection


Answer = (
    ContinueRequestHeaders
    | AnswerRequestHeaders
    | AnswerBufferedBody
    | AnswerRequestBody
    | ContinueRequestBody
    | AnswerRequestTrailers
    | AnswerResponseHeaders
    | AnswerResponseBody
    | ContinueResponseBody
    | AnswerResponseTrailers
    | Reject
)
Action = Pick | Prefilled | Moved | Served | Failed | Late | Quitting | Busy | Release | Finished | Answer


# --- what happened ---------------------------------------------------------------------------------


class Outcome(msgspec.Struct, gc=False):
    """The facts of one request, for metrics, the log line and learning. Times [s, monotonic]."""

    received_at: float
    request: Request | None = None
    """None when the conversation ended before the request was complete, or had no request phase."""
    request_id: str = ""
    """As the client sent it; for requests that never became a Request."""
    path: str = ""
    """As ``request_id``."""
    decision: Decision | None = None
    rejection: Rejection | None = None
    picked_at: float | None = None
    status: int | None = None
    """The HTTP status of the response, as the gateway reported it."""
    served: str | None = None
    first_token_at: float | None = None
    """Streamed responses only: when the first generated token passed."""
    ended_at: float = 0.0
    response_complete: bool = False
    """The response was seen to its end; where its body is not shown, its headers were."""
    is_unseen: bool = False
    """It was not to be seen to its end: --response-phase. The gateway left it out, or we left the stream."""
    is_left: bool = False
    """We left the stream: unless the response is complete, ``ended_at`` is not when it ended."""
    is_misused: bool = False
    """The gateway sent what has no place in the conversation, or cannot be read."""
    response_streaming: bool = False
    response_bytes: int | None = 0
    """None: the body was not shown."""
    usage: Usage | None = None
    finish: str | None = None
    """Why the engine stopped, in its own word (``stop``, ``length``, …)."""
    error: str | None = None
    """An error that the engine reported inside a 200 (``data: {"error"``)."""
