"""One request's conversation with the gateway (ext_proc), without I/O.

Place:   fed by epp.wire, driven by epp.runtime.ext_proc; hands Pick to whoever chooses.
Ignores: gRPC, asyncio, the clock (callers pass ``now``), why an endpoint won.
Rule:    every change of state is a row of TRANSITIONS; a pair that is absent is the peer's error.
         Whatever was reserved by a Picked is released exactly once, on every way out.
         What an answer says about its server is said when its first good sign or all of a bad one is here.
         An answer that breaks off says nothing: it looks the same whether server or client left.
Source:  envoy/service/ext_proc/v3/external_processor.proto

Three ways a request reaches the point of choosing, by the gateway's body mode:
FULL_DUPLEX collects the body and answers everything after the pick; BUFFERED lets the headers go on
and puts the decision on the body's answer; STREAMED and NONE must choose on the headers alone.

Where less of the response is wanted (ResponsePhase), the gateway is asked to leave it out, and a stream on
which it comes all the same is left, but never one whose response body is FULL_DUPLEX: those bytes are in
our hands, and Envoy sends none of them to the client (200 with an empty body, 20 times in 20).
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from epp.core.apis import Parsers, parse
from epp.core.budget import Budget
from epp.core.directives import Directives
from epp.core.events import (
    Action,
    AnswerBufferedBody,
    AnswerRequestBody,
    AnswerRequestHeaders,
    AnswerRequestTrailers,
    AnswerResponseBody,
    AnswerResponseHeaders,
    AnswerResponseTrailers,
    BodyMode,
    ContinueRequestBody,
    ContinueRequestHeaders,
    ContinueResponseBody,
    End,
    Event,
    Evicted,
    Failed,
    Finished,
    Metadata,
    Moved,
    Outcome,
    Override,
    Pick,
    Picked,
    Prefilled,
    Refused,
    Reject,
    Release,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponsePhase,
    ResponseTrailers,
    Served,
    StreamClosed,
)
from epp.core.fleet import Endpoint
from epp.core.json_edit import replace_string
from epp.core.rejection import (
    BODY_TOO_LARGE,
    BUFFERS_FULL,
    TRAILERS_WITHOUT_BODY,
    Rejected,
    Rejection,
)
from epp.core.renaming import Renamer
from epp.core.request import NO_PAYLOAD, Api, Payload, Request
from epp.core.response_reader import ResponseReader, Usage, reader_for
from epp.core.scheduling import Decision
from epp.core.verdict import Verdict, judge, judge_error

MAX_BODY_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 62_000
"""Largest piece of a body in one answer, as upstream: it leaves room for framing below 64 KiB."""

OTHER_PATH_HEADERS = ("x-original-path", "x-forwarded-path")
DEFAULT_PATH, OTHER_DEFAULT_PATH = "/v1/completions", "/v1/chat/completions"
"""What is asked where no header tells: as upstream, unless the body can only be of the second."""


class State(enum.Enum):
    """Where a conversation stands."""

    START = "waiting for the first message"
    COLLECTING = "collecting the request"
    PICKING = "waiting for a pick"
    FORWARDED = "waiting for the response"
    RESPONDING = "passing the response on"
    RESPONDED = "waiting for the end of the stream"
    REJECTED = "refused"
    CLOSED = "closed"

    __hash__ = object.__hash__  # members are singletons; the inherited one is a Python call, six a request


class RequestComplete:
    """A step of the machine's own: what the body mode lets us see of the request is here."""


class ResponseComplete:
    """A step of the machine's own: the response has ended."""


Step = Event | RequestComplete | ResponseComplete

_REQUEST_PIECES = (RequestBody, RequestTrailers)
_RESPONSE_PIECES = (ResponseBody, ResponseTrailers)
_FROM_GATEWAY = (RequestHeaders, *_REQUEST_PIECES, ResponseHeaders, *_RESPONSE_PIECES)
_ANSWERS_TO_PICK = (Picked, Refused)

TRANSITIONS: Mapping[tuple[State, type[Step]], State] = {
    (State.START, RequestHeaders): State.COLLECTING,
    (State.START, ResponseHeaders): State.RESPONDING,  # a gateway that sends the response phase only
    (State.COLLECTING, RequestBody): State.COLLECTING,
    (State.COLLECTING, RequestTrailers): State.COLLECTING,
    (State.COLLECTING, RequestComplete): State.PICKING,
    (State.COLLECTING, Refused): State.REJECTED,
    (State.COLLECTING, ResponseHeaders): State.RESPONDING,  # the gateway answered by itself
    (State.PICKING, RequestBody): State.PICKING,  # late pieces wait for the pick
    (State.PICKING, RequestTrailers): State.PICKING,
    (State.PICKING, Picked): State.FORWARDED,
    (State.PICKING, Refused): State.REJECTED,
    (State.PICKING, ResponseHeaders): State.RESPONDING,
    (State.FORWARDED, RequestBody): State.FORWARDED,
    (State.FORWARDED, RequestTrailers): State.FORWARDED,
    (State.FORWARDED, ResponseHeaders): State.RESPONDING,
    (State.FORWARDED, ResponseTrailers): State.RESPONDING,  # all else was left out
    (State.RESPONDING, RequestBody): State.RESPONDING,  # the server may answer before it read all
    (State.RESPONDING, RequestTrailers): State.RESPONDING,
    (State.RESPONDING, ResponseBody): State.RESPONDING,
    (State.RESPONDING, ResponseTrailers): State.RESPONDING,
    (State.RESPONDING, ResponseComplete): State.RESPONDED,
    **{(State.RESPONDED, piece): State.RESPONDED for piece in (*_REQUEST_PIECES, *_RESPONSE_PIECES)},
    (State.RESPONDED, ResponseComplete): State.RESPONDED,
    **{(State.REJECTED, message): State.REJECTED for message in _FROM_GATEWAY},
    # a pick that comes when nobody waits for it any more is given back
    **{
        (state, answer): state
        for state in (State.RESPONDING, State.RESPONDED, State.REJECTED, State.CLOSED)
        for answer in _ANSWERS_TO_PICK
    },
    (State.FORWARDED, Evicted): State.REJECTED,
    (State.RESPONDING, Evicted): State.REJECTED,
    **{(state, Evicted): state for state in (State.RESPONDED, State.REJECTED, State.CLOSED)},  # too late
    **{(state, StreamClosed): State.CLOSED for state in State if state is not State.CLOSED},
}


class PeerError(Exception):
    """The gateway sent something that has no place in the conversation."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What all streams of one listener share."""

    parsers: Parsers
    budget: Budget
    new_id: Callable[[], str]
    """Makes an ``x-request-id`` where the client sent none."""
    directives: Directives = field(default_factory=Directives)
    response_phase: ResponsePhase = ResponsePhase.FULL
    identify: Callable[[Mapping[str, str]], str] | None = None
    """Finds an agent's session in a request's headers."""
    emits_scores: bool = False
    """The gateway is told what each candidate scored."""
    endpoint_at: Callable[[str], Endpoint | None] = lambda address: None
    """Who is at an address, where a gateway names one that was not on its list."""
    reports: Callable[[Usage | None], Metadata | None] | None = None
    """What the gateway is to be told at the end of a response."""
    served_header: Callable[[str | None], Mapping[str, str]] | None = None
    """What the client is to be told of the endpoint that served, as the gateway names it."""


_NONE, _FULL_DUPLEX = BodyMode.NONE, BodyMode.FULL_DUPLEX  # a look into an Enum costs as much as a call
_AS_IT_COMES = (_FULL_DUPLEX, BodyMode.STREAMED)
_NOTHING: Sequence[Action] = ()
_CONTINUE_RESPONSE: Sequence[Action] = (ContinueResponseBody(),)
_LAST_ANSWERS = (AnswerResponseBody, ContinueResponseBody, AnswerResponseTrailers)


class Stream:
    """The machine. ``receive`` takes one event and returns the actions it causes, in order."""

    __slots__ = (
        "_addresses",
        "_asked",
        "_body",
        "_decision",
        "_end",
        "_endpoint",
        "_headers",
        "_held_bytes",
        "_is_prefilled",
        "_last_piece",
        "_late",
        "_made_id",
        "_outcome",
        "_path",
        "_reader",
        "_renamer",
        "_request",
        "_request_mode",
        "_response_bytes",
        "_response_headers",
        "_response_left",
        "_response_mode",
        "_rewritten",
        "_settings",
        "_subset",
        "_unserved",
        "is_over",
        "state",
    )

    def __init__(self, settings: StreamSettings) -> None:
        self.state = State.START
        self._settings = settings
        self._headers: Mapping[str, str] = {}
        self._path = ""
        self._subset: tuple[str, ...] | None = None
        self._request_mode = self._response_mode = _FULL_DUPLEX
        self._body: list[bytes] = []
        self._held_bytes = 0  # what the budget has lent us
        self._end: End | None = None
        self._made_id: str | None = None
        self._request: Request | None = None
        self._rewritten = False
        self._late: list[RequestBody | RequestTrailers] = []
        self._addresses: Sequence[str] = ()  # as answered: an endpoint may move meanwhile
        self._asked: Override | None = None
        self._decision: Decision | None = None  # charged to this request until Release
        self._endpoint: Endpoint | None = None  # whom the answer is of, where that is known
        self._is_prefilled = False
        self._unserved: Endpoint | None = None  # of whom a good sign is still to be said
        self._response_headers: Mapping[str, str] = {}
        self._reader: ResponseReader | None = None
        self._response_bytes = 0
        self._response_left: int | None = None  # bytes still to come, where the length is announced
        self._renamer: Renamer | None = None  # of a response that would name another model
        self._last_piece: bytes | None = None  # it waits for the end, which follows at once
        self.is_over = False
        """We need nothing more: the stream may be closed from here, and nothing is lost by that."""
        self._outcome: Outcome | None = None

    def receive(self, event: Event, now: float) -> Sequence[Action]:
        """Take one event that happened at ``now`` [s, monotonic]. Raises PeerError, changing nothing."""
        row = _ROWS[self.state].get(type(event))
        if row is None:
            raise PeerError(f"{type(event).__name__} while {self.state.value}")
        self.state, handle = row
        return handle(self, event, now)

    def delivered(self) -> None:
        """All answers so far are with the gateway: a body that was in them is held no longer."""
        if self._held_bytes and not self._body and self.state is not State.COLLECTING:
            self._give_back()

    def misused(self) -> None:
        """What the gateway sent cannot be used: the stream ends for that."""
        if self._outcome is not None:
            self._outcome.is_misused = True

    @property
    def request(self) -> Request | None:
        """Once it is complete."""
        return self._request

    # --- the request ---

    def _on_request_headers(self, event: RequestHeaders, now: float) -> Sequence[Action]:
        headers = self._headers = event.headers
        self._path = headers.get(":path") or _path_elsewhere(headers)
        path = self._path or DEFAULT_PATH
        self._outcome = Outcome(received_at=now, request_id=headers.get("x-request-id", ""), path=path)
        self._subset = event.subset
        self._request_mode, self._response_mode = event.request_mode, event.response_mode
        if event.ended:
            return self._complete_request(End.HEADERS, now)
        if (_announced_bytes(headers) or 0) > MAX_BODY_BYTES:
            return self.receive(Refused(BODY_TOO_LARGE), now)
        match event.request_mode:
            case BodyMode.FULL_DUPLEX:
                return _NOTHING
            case BodyMode.BUFFERED | BodyMode.BUFFERED_PARTIAL:
                return (ContinueRequestHeaders(self._ask(ResponsePhase.NONE)),)
            case BodyMode.STREAMED | BodyMode.NONE:
                return self._complete_request(None, now)

    def _on_request_body(self, event: RequestBody, now: float) -> Sequence[Action]:
        if self._end is End.BODY:
            return (
                _NOTHING  # Envoy may repeat a chunk after the end (its issue 46237): not twice to the server
            )
        if self.state is not State.COLLECTING and self.state is not State.PICKING:
            return (self._pass_on(event),)
        if event.data:
            refusal = self._borrow(len(event.data))
            if refusal is not None:
                return self.receive(Refused(refusal), now)
        if self.state is State.PICKING:
            self._late.append(event)
            return _NOTHING
        return self._collect(event, now)

    def _collect(self, event: RequestBody, now: float) -> Sequence[Action]:
        if event.subset is not None:
            self._subset = event.subset
        if event.data:
            self._body.append(event.data)
        if event.ended:
            return self._complete_request(End.BODY, now)
        if self._request_mode is _FULL_DUPLEX:
            return _NOTHING
        return self._complete_request(None, now)  # BUFFERED: one message is the whole body

    def _on_request_trailers(self, event: RequestTrailers, now: float) -> Sequence[Action]:
        if self.state is State.PICKING:
            self._late.append(event)
            return _NOTHING
        if self.state is not State.COLLECTING:
            return (AnswerRequestTrailers(),)
        if self._request_mode is not _FULL_DUPLEX:
            return self.receive(Refused(TRAILERS_WITHOUT_BODY), now)
        if event.subset is not None:
            self._subset = event.subset
        return self._complete_request(End.TRAILERS, now)

    def _complete_request(self, end: End | None, now: float) -> Sequence[Action]:
        """``end`` None: more may follow that we do not wait for."""
        self._enter(RequestComplete)
        self._end = end
        try:
            request = self._request = self._read_request()
        except Rejected as refused:
            return self.receive(Refused(refused.rejection), now)
        if self._outcome is not None:
            self._outcome.request = request
        return (Pick(request),)

    def _read_request(self) -> Request:
        body, path, headers = b"".join(self._body), self._path or DEFAULT_PATH, self._headers
        api, payload = Api.PASSTHROUGH, NO_PAYLOAD
        truncated = self._request_mode is BodyMode.BUFFERED_PARTIAL and self._end is None
        if body and not truncated:
            path, api, payload = self._understood(body)
        target_model, rewritten_by = payload.model, ""
        if target_model:
            target_model, rewritten_by = self._settings.directives.target(target_model, headers)
            if target_model != payload.model:
                self._rewritten = True
                body = replace_string(body, "model", target_model)
        self._body = [body] if body else []
        identify = self._settings.identify
        request_id = headers.get("x-request-id")
        if not request_id:
            request_id = self._made_id = self._settings.new_id()
        return Request(
            id=request_id,
            path=path,
            api=api,
            headers=headers,
            payload=payload,
            target_model=target_model,
            rewritten_by=rewritten_by,
            priority=self._settings.directives.priority(headers),
            body_bytes=len(body),
            shows_first_token=payload.streaming
            and self._response_mode in _AS_IT_COMES
            and self._settings.response_phase is ResponsePhase.FULL,
            subset=self._subset,
            agent=identify(headers) if identify is not None else "",
        )

    def _understood(self, body: bytes) -> tuple[str, Api, Payload]:
        """The path, whose API it is, and what ``body`` says; raises Rejected (400)."""
        parsers, path = self._settings.parsers, self._path or DEFAULT_PATH
        api = parsers.api_of(path)
        try:
            return path, api, parse(api, body)
        except Rejected:
            if not self._path:  # NGINX Gateway Fabric tells none
                api = parsers.api_of(OTHER_DEFAULT_PATH)
                with suppress(Rejected):
                    return OTHER_DEFAULT_PATH, api, parse(api, body)
            raise

    def _on_picked(self, event: Picked, now: float) -> Sequence[Action]:
        decision = event.decision
        if self.state is not State.FORWARDED:
            return (Release(decision),)
        self._decision, self._endpoint = decision, decision.endpoints[0]
        self._addresses = decision.addresses
        if self._headers.get(":method", "POST") == "POST":  # see _is_generation
            self._unserved = self._endpoint
        if self._outcome is not None:
            self._outcome.decision, self._outcome.picked_at = decision, now
        answers = self._answers_to_request(decision)
        if self._settings.emits_scores:
            answers[0] = msgspec.structs.replace(answers[0], scores=_scores(decision))
        if self._late:
            answers += map(self._pass_on, self._late)
            self._late = []
        self._body = []
        return answers

    def _answers_to_request(self, decision: Decision) -> list[Action]:
        addresses = self._addresses
        body = self._body[0] if self._body else b""
        end = self._end
        by_body = self._request_mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
        if by_body and end is not End.HEADERS:
            return [
                AnswerBufferedBody(
                    addresses, body if self._rewritten else None, self._made_id, decision.headers
                )
            ]
        length = len(body) if body and (end is End.BODY or self._rewritten) else None
        asked = self._ask(ResponsePhase.NONE)
        headers = AnswerRequestHeaders(addresses, length, self._made_id, asked, decision.headers)
        if end is End.BODY:
            return [headers, *_pieces(body, ended=True)]
        if end is End.TRAILERS:
            return [headers, *(_pieces(body, ended=False) if body else ()), AnswerRequestTrailers()]
        return [headers]

    def _pass_on(self, late: RequestBody | RequestTrailers) -> Action:
        """The answer to a piece that came after the decision."""
        if isinstance(late, RequestTrailers):
            return AnswerRequestTrailers()
        if self._request_mode is _FULL_DUPLEX:
            return AnswerRequestBody(late.data, late.ended)
        return ContinueRequestBody()

    def _on_refused(self, event: Refused, now: float) -> Sequence[Action]:
        if self.state is not State.REJECTED or self._outcome is None or self._outcome.rejection is not None:
            return _NOTHING
        self._outcome.rejection = event.rejection
        self._drop_body()
        return (Reject(event.rejection),)

    def _on_evicted(self, event: Evicted, now: float) -> Sequence[Action]:
        """A gateway that passes the answer on already breaks it off."""
        outcome = self._outcome
        if self.state is not State.REJECTED or outcome is None or outcome.rejection is not None:
            return _NOTHING
        outcome.rejection = event.rejection
        self._drop_body()
        return (Reject(event.rejection), *self._release())

    def _ignored(self, event: Event, now: float) -> Sequence[Action]:
        """The client has its answer; the gateway may not have noticed yet."""
        return _NOTHING

    def _borrow(self, count: int) -> Rejection | None:
        """Have the budget lend what a piece of the body takes; the reason why not, if it does not."""
        if self._held_bytes + count > MAX_BODY_BYTES:
            return BODY_TOO_LARGE
        if not self._settings.budget.take(count):
            return BUFFERS_FULL
        self._held_bytes += count
        return None

    def _drop_body(self) -> None:
        self._body, self._late = [], []
        self._give_back()

    def _give_back(self) -> None:
        self._settings.budget.give_back(self._held_bytes)
        self._held_bytes = 0

    # --- the response ---

    def _on_response_headers(self, event: ResponseHeaders, now: float) -> Sequence[Action]:
        if self._held_bytes:
            self._drop_body()
        outcome = self._outcome = self._outcome or Outcome(received_at=now)
        if event.response_mode is not None:
            self._response_mode = event.response_mode
        headers, request = event.headers, self._request
        self._response_headers = headers
        status = outcome.status = _number(headers.get(":status", ""), digits=3)
        outcome.served = event.served
        moves = self._follow(event.served) if event.served is not None else _NOTHING
        if status is not None and status >= 400:
            self._unserved = None
        reader = self._reader = reader_for(
            request.api if request else Api.PASSTHROUGH,
            headers.get("content-type", ""),
            request.payload.streaming if request else False,
            status,
        )
        outcome.response_streaming = reader.streaming
        if self._response_mode is _FULL_DUPLEX:
            if self._rewritten and request is not None:
                self._renamer = Renamer(request.target_model, request.payload.model)
            else:
                self._response_left = _announced_bytes(headers)
        added = self._added_to_response()
        if event.ended:
            return (AnswerResponseHeaders(headers=added), *moves, *self._complete_response(now))
        if self._settings.response_phase is ResponsePhase.NONE and self._response_mode is not _NONE:
            self._leave()
        asked = self._ask(ResponsePhase.HEADERS)
        answer = AnswerResponseHeaders(asked, self._renamer is not None, headers=added)
        if self._response_mode is _NONE or self._asked is not None:  # no first token will be shown
            return (answer, *moves, *self._prefilled(), *self._served())  # this is the nearest thing
        if self._unserved is None or (reader.streaming and not self.is_over):
            return (answer, *moves)
        return (answer, *moves, *self._served())

    def _on_response_body(self, event: ResponseBody, now: float) -> Sequence[Action]:
        data = event.data
        answers = self._pass_back(data, event.ended)
        if self.state is not State.RESPONDING:
            return answers
        reader, outcome = self._reader, self._outcome
        assert reader is not None and outcome is not None  # set with the response headers
        self._response_bytes += len(data)
        reader.feed(data)
        if reader.first_token_seen and outcome.first_token_at is None:
            outcome.first_token_at = now
            answers = (*answers, *self._prefilled(), *self._served())
        if event.ended:
            self.is_over = self._end is End.BODY or self._end is End.HEADERS
            completed = self._complete_response(now)
            return (*(self._reported(answers) if self._settings.reports else answers), *completed)
        if self._settings.response_phase is not ResponsePhase.FULL:
            self._leave()
        return answers

    def _pass_back(self, data: bytes, ended: bool) -> Sequence[Action]:
        """The answer to a piece of the response body.

        The last piece of a body of known length waits for the end, which gateways send in a message of
        its own right behind it: one answer instead of two.
        """
        if self._response_mode is not _FULL_DUPLEX:
            return _CONTINUE_RESPONSE
        if self._renamer is not None:
            data = self._renamer.feed(data) + (self._renamer.rest() if ended else b"")
            return (AnswerResponseBody(data, ended),) if data or ended else _NOTHING
        size = len(data)
        if self._last_piece is not None:
            data, self._last_piece = self._last_piece + data, None
        if self._response_left is not None and not ended:
            self._response_left -= size
            if self._response_left == 0:
                self._last_piece = data
                return _NOTHING
        return (AnswerResponseBody(data, ended),)

    def _on_response_trailers(self, event: ResponseTrailers, now: float) -> Sequence[Action]:
        answers: list[Action] = [AnswerResponseTrailers()]
        if self._renamer is not None and (rest := self._renamer.rest()):
            answers.insert(0, AnswerResponseBody(rest, False))
        if self._last_piece is not None:
            answers.insert(0, AnswerResponseBody(self._last_piece, False))
            self._last_piece = None
        if self.state is State.RESPONDING:
            completed = self._complete_response(now)
            answers = [*(self._reported(answers) if self._settings.reports else answers), *completed]
        return answers

    def _reported(self, answers: Sequence[Action]) -> Sequence[Action]:
        """These answers, with what the gateway is to be told once the response is complete."""
        reports, reader = self._settings.reports, self._reader
        metadata = reports(reader.usage if reader else None) if reports else None
        if not metadata:
            return answers
        told = list(answers)
        last = max(place for place, each in enumerate(told) if isinstance(each, _LAST_ANSWERS))
        told[last] = msgspec.structs.replace(told[last], metadata=metadata)
        return told

    def _complete_response(self, now: float) -> Sequence[Action]:
        self._enter(ResponseComplete)
        outcome = self._outcome
        assert outcome is not None  # set with the first headers
        reader = self._reader
        if reader is not None:
            reader.end()
        outcome.response_complete, outcome.ended_at = True, now
        if self._unserved is None and reader is not None and reader.error is None:
            status = outcome.status
            if status is None or status < 500:  # as good as always
                return self._release(reader.usage)
        return (*self._verdict(), *self._release())

    def _added_to_response(self) -> Mapping[str, str] | None:
        """What plugins add: of the endpoint that they know of, the first, and so only to its own response."""
        decision, told = self._decision, self._settings.served_header
        added = None
        if decision is not None and self._endpoint is decision.endpoints[0]:
            added = decision.response_headers
        if told is None or self._outcome is None:
            return added
        return {**(added or {}), **told(self._outcome.served)}

    # --- what it says about the server ---

    def _follow(self, address: str) -> Sequence[Action]:
        """The gateway says who had the request last: there it is, and those listed before did not take it."""
        decision, picked = self._decision, self._endpoint
        listed = self._addresses
        if decision is None or picked is None or listed[0] == address:
            return _NOTHING
        place = listed.index(address) if address in listed else len(listed)
        endpoint = decision.endpoints[place] if place < len(listed) else self._settings.endpoint_at(address)
        self._endpoint = endpoint
        self._unserved = endpoint if self._unserved is not None else None
        if endpoint is None:  # no server of ours, or written in another way: nothing is known of anyone
            return _NOTHING
        reason, at = f"passed over: the gateway went on to {address}", decision.reservation.at
        passed_over = [Failed(each, reason, at) for each in decision.endpoints[:place]]
        return (Moved(decision, endpoint), *passed_over)

    def _served(self) -> Sequence[Action]:
        """A first good sign; said once."""
        endpoint, self._unserved = self._unserved, None
        return _NOTHING if endpoint is None else (Served(endpoint),)

    def _is_generation(self) -> bool:
        """Who answers a GET may generate nothing any more: vLLM lists its models while it shuts down."""
        return self._headers.get(":method", "POST") == "POST"

    def _verdict(self) -> Sequence[Action]:
        """What the end of the answer says, after all that its first sign has said."""
        reader, outcome, endpoint = self._reader, self._outcome, self._endpoint
        if reader is None or outcome is None or endpoint is None or self._decision is None:
            return _NOTHING
        status = outcome.status or 0
        found: Verdict | None = None
        if status >= 500:
            if not outcome.response_complete:
                reader.end()  # as much of it as came
            is_shown = self._response_bytes or not (self._is_body_hidden() or outcome.is_left)
            found = judge(
                status,
                (reader.error or "") if is_shown else None,
                headers=self._response_headers,
                engine=endpoint.engine,
                is_generation=self._is_generation(),
            )
        elif reader.error is None:
            return self._served() if outcome.response_complete else _NOTHING
        elif status < 400:
            found = judge_error(reader.error_status, reader.error, engine=endpoint.engine)
        if found is None:
            return _NOTHING
        said, reason = found
        return (said(endpoint, reason, self._decision.reservation.at),)

    def _is_body_hidden(self) -> bool:
        return not self._response_bytes and (self._response_mode is _NONE or self._asked is not None)

    # --- less of the response ---

    def _ask(self, phase: ResponsePhase) -> Override | None:
        """What an answer to headers asks the gateway for, if ``phase`` is what is wanted.

        Envoy heeds nothing of it where either body is FULL_DUPLEX.
        """
        if self._settings.response_phase is not phase:
            return None
        if self._request_mode is _FULL_DUPLEX or self._response_mode is _FULL_DUPLEX:
            return None
        self._asked = Override(self._request_mode, phase is ResponsePhase.HEADERS)
        return self._asked

    def _leave(self) -> None:
        """More is shown than was wanted: close the stream, where the gateway has kept every byte."""
        if self._response_mode is not _FULL_DUPLEX and self._outcome is not None:
            self.is_over = self._outcome.is_unseen = self._outcome.is_left = True

    # --- the end ---

    def _on_closed(self, event: StreamClosed, now: float) -> Sequence[Action]:
        if self._held_bytes:
            self._drop_body()
        outcome = self._outcome
        if outcome is None:
            return self._release()
        actions = self._release() if outcome.response_complete else (*self._verdict(), *self._release())
        self._tell_end(outcome, now)
        return (*actions, Finished(outcome))

    def _tell_end(self, outcome: Outcome, now: float) -> None:
        """What is known only now."""
        reader = self._reader
        if reader is not None:
            outcome.usage, outcome.error, outcome.finish = reader.usage, reader.error, reader.finish
        is_hidden = not self._response_bytes and self._is_body_hidden()
        outcome.response_bytes = None if is_hidden else self._response_bytes
        if outcome.response_complete:
            return
        outcome.ended_at = now
        if is_hidden:  # an answer with a status is all that can be seen, or not even that
            outcome.response_complete = outcome.status is not None and not outcome.is_left
            outcome.is_unseen |= self._settings.response_phase is ResponsePhase.NONE

    def _prefilled(self) -> Sequence[Action]:
        """The prompt's tokens are no work ahead of anyone any more; said once."""
        if self._is_prefilled or self._decision is None:
            return _NOTHING
        self._is_prefilled = True
        return (Prefilled(self._decision),)

    def _release(self, usage: Usage | None = None) -> Sequence[Action]:
        decision, self._decision = self._decision, None
        if decision is None:
            return _NOTHING
        return (Release(decision, usage.completion_tokens if usage is not None else None),)

    def _enter(self, step: type[Step]) -> None:
        """Change the state by a step of the machine's own."""
        self.state = TRANSITIONS[self.state, step]


_HANDLERS: Mapping[type[Step], Callable[..., Sequence[Action]]] = {
    RequestHeaders: Stream._on_request_headers,
    RequestBody: Stream._on_request_body,
    RequestTrailers: Stream._on_request_trailers,
    Picked: Stream._on_picked,
    Refused: Stream._on_refused,
    Evicted: Stream._on_evicted,
    ResponseHeaders: Stream._on_response_headers,
    ResponseBody: Stream._on_response_body,
    ResponseTrailers: Stream._on_response_trailers,
    StreamClosed: Stream._on_closed,
}


def _handler(state: State, event: type[Step]) -> Callable[..., Sequence[Action]]:
    is_too_late = state is State.REJECTED and event in _FROM_GATEWAY
    return Stream._ignored if is_too_late else _HANDLERS[event]


_ROWS: Mapping[State, Mapping[type[Step], tuple[State, Callable[..., Sequence[Action]]]]] = {
    state: {
        event: (after, _handler(state, event))
        for (before, event), after in TRANSITIONS.items()
        if before is state and event in _HANDLERS
    }
    for state in State
}
"""TRANSITIONS with what is to be done: one look-up by the event, where a tuple would be made and hashed."""


def _scores(decision: Decision) -> Mapping[str, float]:
    pairs = zip(decision.candidates, decision.totals, strict=True)
    return {endpoint.address: total for endpoint, total in pairs}


def _pieces(body: bytes, *, ended: bool) -> Sequence[Action]:
    """The body in pieces of at most CHUNK_BYTES; an empty body is one empty piece."""
    if len(body) <= CHUNK_BYTES:
        return (AnswerRequestBody(body, ended),)
    starts = range(0, len(body), CHUNK_BYTES)
    last = starts[-1]
    return [AnswerRequestBody(body[at : at + CHUNK_BYTES], ended and at == last) for at in starts]


def _path_elsewhere(headers: Mapping[str, str]) -> str:
    return next((headers[name] for name in OTHER_PATH_HEADERS if headers.get(name)), "")


def _announced_bytes(headers: Mapping[str, str]) -> int | None:
    return _number(headers.get("content-length", ""), digits=19)


def _number(text: str, *, digits: int) -> int | None:
    """None: no number, or one of more digits. (``int`` refuses 5,000 of them.)"""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None
