"""The two vocabularies of one request's conversation: events come in, actions go out.

Place:   epp.wire turns gateway messages into events and actions into messages; epp.core.stream is
         the machine between them; the driver carries out Pick, Release and Finished.
Rule:    wire forms with one meaning are one event. A request may end on its headers, on a chunk, on
         an empty chunk or on trailers: the core sees RequestEnded.
Source:  envoy/service/ext_proc/v3/external_processor.proto
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epp.core.answers import Usage
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision


class BodyMode(enum.Enum):
    """How the gateway hands over a body, and so what answer it expects (ProcessingMode)."""

    NONE = "none"
    STREAMED = "streamed"
    BUFFERED = "buffered"
    BUFFERED_PARTIAL = "buffered partial"
    FULL_DUPLEX = "full duplex streamed"


class End(enum.Enum):
    """What carried the end of a request or response."""

    HEADERS = "headers"
    BODY = "body"
    TRAILERS = "trailers"


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """Always the first event of a request. Body modes are FULL_DUPLEX where the gateway names none."""

    headers: Mapping[str, str]
    subset: tuple[str, ...] | None = None
    request_mode: BodyMode = BodyMode.FULL_DUPLEX
    response_mode: BodyMode = BodyMode.FULL_DUPLEX
    ended: bool = False


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A piece of the request body, possibly empty; ``ended``: it is the last one."""

    data: bytes
    ended: bool = False
    subset: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RequestTrailers:
    """The request ended, and its trailers want an answer of their own."""

    subset: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Picked:
    """The answer to Pick: where the request goes."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to Pick: nowhere, and why."""

    rejection: Rejection


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """The server answered; ``served``: the endpoint that really did, where the gateway says so."""

    headers: Mapping[str, str]
    served: str | None = None
    ended: bool = False
    response_mode: BodyMode | None = None
    """Known only when the conversation begins here (no request phase)."""


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """A piece of the response body."""

    data: bytes
    ended: bool = False


@dataclass(frozen=True, slots=True)
class ResponseTrailers:
    """The response ended, and its trailers want an answer of their own."""


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The gateway closed, cancelled or lost the stream; always the last event, exactly once."""


Event = (
    RequestHeaders
    | RequestBody
    | RequestTrailers
    | Picked
    | Refused
    | ResponseHeaders
    | ResponseBody
    | ResponseTrailers
    | StreamClosed
)


# --- actions: for the driver -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pick:
    """Choose an endpoint and reserve on it; answer with Picked or Refused."""

    request: Request


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The first token came: the prompt is no work ahead of anyone any more."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Release:
    """The request occupies its endpoint no longer. Exactly one per Picked."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Finished:
    """The conversation is over: the facts for metrics and the log line."""

    outcome: "Outcome"


# --- actions: answers to the gateway -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContinueRequestHeaders:
    """Go on without a decision yet (BUFFERED: the pick rides on the body's answer)."""


@dataclass(frozen=True, slots=True)
class AnswerRequestHeaders:
    """Where to send the request. ``content_length``: of the body that follows, None without one."""

    addresses: Sequence[str]
    content_length: int | None = None
    request_id: str | None = None
    """Set on the upstream request where the client sent none."""


@dataclass(frozen=True, slots=True)
class AnswerBufferedBody:
    """The decision in the answer to a whole body; ``body``: its replacement, None to keep it."""

    addresses: Sequence[str]
    body: bytes | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerRequestBody:
    """One piece of the request body on its way to the server (FULL_DUPLEX)."""

    data: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class ContinueRequestBody:
    """Let a body piece pass as it is (STREAMED, or a piece that came late)."""


@dataclass(frozen=True, slots=True)
class AnswerRequestTrailers:
    """Let the request's trailers pass."""


@dataclass(frozen=True, slots=True)
class AnswerResponseHeaders:
    """Let the response's headers pass."""


@dataclass(frozen=True, slots=True)
class AnswerResponseBody:
    """One piece of the response body on its way to the client (FULL_DUPLEX)."""

    data: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class ContinueResponseBody:
    """Let a response body piece pass as it is (STREAMED, BUFFERED)."""


@dataclass(frozen=True, slots=True)
class AnswerResponseTrailers:
    """Let the response's trailers pass."""


@dataclass(frozen=True, slots=True)
class Reject:
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
Action = Pick | Prefilled | Release | Finished | Answer


# --- what happened ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
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
    """False: the stream was closed before the response's end (or there was no response phase)."""
    response_streaming: bool = False
    response_bytes: int = 0
    usage: Usage | None = None
    error: str | None = None
    """An error that the engine reported inside a 200 (``data: {"error"``)."""
