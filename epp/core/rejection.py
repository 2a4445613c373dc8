"""Why a request is refused, and what the client is told.

Place:   raised or returned anywhere in the core; turned into an ImmediateResponse by epp.wire.
Rule:    the only place that knows HTTP statuses. The client reads ``inference error: <Code> - <message>``.
Source:  the upstream picker's error table (llm-d-router v0.10).
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

DROPPED_REASON_HEADER = "x-llm-d-request-dropped-reason"


class Code(enum.Enum):
    """An error class, with the HTTP status that carries it."""

    BAD_REQUEST = ("BadRequest", 400)
    PRECONDITION_FAILED = ("PreconditionFailed", 412)
    PAYLOAD_TOO_LARGE = ("PayloadTooLarge", 413)
    RESOURCE_EXHAUSTED = ("ResourceExhausted", 429)
    INTERNAL = ("Internal", 500)
    SERVICE_UNAVAILABLE = ("ServiceUnavailable", 503)

    def __init__(self, spelling: str, status: int) -> None:
        self.spelling = spelling
        self.status = status


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refusal: its class, a sentence for the client, and headers that tell a machine why."""

    code: Code
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return self.code.status

    @property
    def body(self) -> str:
        """The text of the answer."""
        return f"inference error: {self.code.spelling} - {self.message}"


class Rejected(Exception):
    """Carries a Rejection out of a pure function."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.body)
        self.rejection = rejection


def bad_request(message: str) -> Rejected:
    """The client's mistake: 400."""
    return Rejected(Rejection(Code.BAD_REQUEST, message))


def all_dead(what: str, retry_after: float) -> Rejected:
    """Nobody who could serve the request is alive: 503. ``retry_after`` [s]: when somebody may be."""
    headers = {
        DROPPED_REASON_HEADER: "rejected-endpoints-down",
        "retry-after": str(max(1, math.ceil(retry_after))),
    }
    return Rejected(Rejection(Code.SERVICE_UNAVAILABLE, what, headers))


def no_endpoint(why: str) -> Rejected:
    """Nobody is listed who may serve such a request: 503."""
    headers = {DROPPED_REASON_HEADER: "rejected-no-endpoints"}
    return Rejected(Rejection(Code.SERVICE_UNAVAILABLE, why, headers))


def not_admitted(why: str) -> Rejection:
    """A plugin turns the request away: 429. (Upstream says 500, which would be our own failure.)"""
    headers = {DROPPED_REASON_HEADER: "rejected-saturated"}
    return Rejection(Code.RESOURCE_EXHAUSTED, f"request cannot be admitted: {why}", headers)


NO_CANDIDATES = Rejection(
    Code.SERVICE_UNAVAILABLE,
    "failed to find endpoint candidates for serving the request",
    {DROPPED_REASON_HEADER: "rejected-no-endpoints"},
)
ALL_FILTERED = Rejection(
    Code.RESOURCE_EXHAUSTED,
    "no endpoints available for the given request",
    {DROPPED_REASON_HEADER: "rejected-saturated"},
)
BODY_TOO_LARGE = Rejection(Code.PAYLOAD_TOO_LARGE, "the request body is over the limit of 64 MiB")
BUFFERS_FULL = Rejection(
    Code.SERVICE_UNAVAILABLE,
    "the picker holds as many request bodies as it may, try again",
    {DROPPED_REASON_HEADER: "rejected-saturated", "retry-after": "1"},
)
PLUGIN_FAILED = Rejection(Code.INTERNAL, "a plugin of the endpoint picker failed")
NOT_CACHED = Rejection(Code.PRECONDITION_FAILED, "no decode worker has the requested KV cache")
TRAILERS_WITHOUT_BODY = Rejection(
    Code.BAD_REQUEST, "a request with trailers but without a body cannot be routed in BUFFERED mode"
)
