"""One INFO line per request, and everything else that the process says, in one of two forms.

Place:   configured once by main; told of finished requests by the server.
Ignores: what the facts mean.
Rule:    message texts are constant, facts are fields. Nothing that a client sent reaches a terminal or
         a log reader unescaped. A line is built only if somebody wants it.

The request line does not go through ``logging``: its records cost more than the rest of the line.
"""

import enum
import json
import logging
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from epp.config.flags import ServeFlags
from epp.core.events import Outcome

MAX_TEXT = 256
"""Characters of one text that came from outside: nobody may fill the log by asking for a long path."""
_LEVEL_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "panic",
}


_LEVELS = {name: level for level, name in _LEVEL_NAMES.items()}


def _level(verbosity: int) -> int:
    if verbosity >= 3:
        return logging.DEBUG
    return {-1: logging.ERROR, -2: logging.CRITICAL}.get(verbosity, logging.INFO)


class Encoder(enum.Enum):
    """How a line looks (upstream's ``--zap-encoder``)."""

    JSON = "json"
    CONSOLE = "console"


class TimeEncoding(enum.Enum):
    """How a line tells the time (upstream's ``--zap-time-encoding``)."""

    EPOCH = "epoch"
    MILLIS = "millis"
    NANO = "nano"
    ISO8601 = "iso8601"
    RFC3339 = "rfc3339"
    RFC3339_NANO = "rfc3339nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """``level`` and ``stacktrace_level`` are those of ``logging``; ``encoder`` None: by the stream."""

    level: int = logging.INFO
    encoder: Encoder | None = None
    time_encoding: TimeEncoding = TimeEncoding.RFC3339
    stacktrace_level: int = logging.ERROR
    """Tracebacks are part of lines of this level and above."""

    @classmethod
    def of(cls, flags: ServeFlags) -> "LogSettings":
        """What the command line asks for."""
        return cls(
            level=_level(flags.verbosity),
            encoder=None if flags.log_encoder is None else Encoder(flags.log_encoder),
            time_encoding=TimeEncoding(flags.log_time_encoding),
            stacktrace_level=_LEVELS[flags.stacktrace_level],
        )


def escape(text: str) -> str:
    """The text without anything that could command a terminal or end a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clean(text: str) -> str:
    """A client's text: escaped, and not endless."""
    if len(text) <= MAX_TEXT and text.isprintable():  # as good as always; ``escape`` would be another call
        return text
    return escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")


class RequestLine(msgspec.Struct, gc=False, tag_field="level", tag="info"):
    """The request line, in the order in which it is written; unknown facts stay UNSET and are left out."""

    ts: str | float
    logger: str = "epp.request"
    msg: str = "request"
    request_id: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    target_model: str | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    endpoint: str | UnsetType = UNSET
    address: str | UnsetType = UNSET
    served: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    code: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    ttft_ms: float | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET
    prompt_tokens: int | UnsetType = UNSET
    cached_tokens: int | UnsetType = UNSET
    completion_tokens: int | UnsetType = UNSET
    finish: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    incomplete: bool | UnsetType = UNSET


_FACTS = RequestLine.__struct_fields__[3:]  # all but ts, logger and msg
_facts_of = operator.attrgetter(*_FACTS)


def request_line(outcome: Outcome, ts: str | float) -> RequestLine:
    """What is said of a request, at ``ts``."""
    received = outcome.received_at
    line = RequestLine(ts)
    if outcome.response_complete or not outcome.is_left:
        line.duration_ms = _milliseconds(outcome.ended_at - received)
    if outcome.first_token_at is not None:
        line.ttft_ms = _milliseconds(outcome.first_token_at - received)
    _tell_request(line, outcome)
    if outcome.decision is not None:
        endpoint = outcome.decision.endpoints[0]
        line.endpoint, line.address = endpoint.name, endpoint.address
        if outcome.served is not None and outcome.served != endpoint.address:
            line.served = clean(outcome.served)
    _tell_end(line, outcome)
    return line


def _tell_request(line: RequestLine, outcome: Outcome) -> None:
    request = outcome.request
    if request is None:
        request_id, path = outcome.request_id, outcome.path
    else:
        request_id, path, model = request.id, request.path, request.payload.model
        if model:
            line.model = clean(model)
        if request.priority:
            line.priority = request.priority
        if request.target_model != model:
            line.target_model = clean(request.target_model)
    if request_id:
        line.request_id = clean(request_id)
    if path:
        line.path = clean(path.partition("?")[0])  # a query may hold a secret


def _tell_end(line: RequestLine, outcome: Outcome) -> None:
    rejection, usage = outcome.rejection, outcome.usage
    if rejection is not None:
        line.status, line.code = rejection.status, rejection.code.spelling
        line.reason = clean(rejection.message)
    else:
        if outcome.status is not None:
            line.status = outcome.status
        if not outcome.response_complete and not outcome.is_unseen:
            line.incomplete = True
    if usage is not None:
        if usage.prompt_tokens is not None:
            line.prompt_tokens = usage.prompt_tokens
        if usage.cached_tokens is not None:
            line.cached_tokens = usage.cached_tokens
        if usage.completion_tokens is not None:
            line.completion_tokens = usage.completion_tokens
    if outcome.finish is not None:
        line.finish = clean(outcome.finish)
    if outcome.error is not None:
        line.error = clean(outcome.error)


def _milliseconds(seconds: float) -> float:
    """With one decimal. ``round(…, 1)`` goes by way of a text, in four times the time."""
    return round(seconds * 10_000) / 10


FLUSH_SECONDS = 0.05
FLUSH_BYTES = 1 << 16
Later = Callable[[float, Callable[[], None]], object]
"""Call something after so many seconds: ``loop.call_later``."""


class RequestLog:
    """Writes the request line; ``lost`` counts lines that the stream did not take.

    Without ``later`` every line is written at once, as people at a terminal want it. With it, the
    lines of FLUSH_SECONDS leave in one system call: a call for each would be a tenth of a request.
    They wait as text: an Outcome that waited would keep its request, and so its whole prompt.
    """

    __slots__ = (
        "_console",
        "_encode_lines",
        "_fd",
        "_held",
        "_is_due",
        "_later",
        "_stamp",
        "enabled",
        "lost",
    )

    def __init__(self, settings: LogSettings, fd: int, later: Later | None = None) -> None:
        self.enabled = settings.level <= logging.INFO
        self.lost = 0
        self._fd = fd
        self._console = settings.encoder is Encoder.CONSOLE
        self._stamp = _STAMPS[settings.time_encoding]
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._later = later
        self._held = bytearray()
        self._is_due = False  # somebody will flush

    def finished(self, outcome: Outcome) -> None:
        if not self.enabled:
            return
        self._held += self.line(outcome, time.time_ns())
        if self._later is None or len(self._held) >= FLUSH_BYTES:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            self._later(FLUSH_SECONDS, self._flush_when_due)

    def _flush_when_due(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Write what is held; at the end, too."""
        held, self._held = self._held, bytearray()
        rest = memoryview(held)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:  # a full disk or a closed pipe must not fail the request that it tells of
            self.lost += bytes(rest).count(b"\n")

    def line(self, outcome: Outcome, wall_ns: int) -> bytes:
        """The line, with its end."""
        if not self._console:
            return self._encode_lines((request_line(outcome, self._stamp(wall_ns)),))
        facts = zip(_FACTS, _facts_of(request_line(outcome, "")), strict=True)
        return f"{_clock(wall_ns)} INFO  request {_console_fields(facts)}\n".encode(errors="replace")


def _rfc3339(wall_ns: int) -> str:
    return _millisecond(wall_ns // 10**6) + "Z"


def _rfc3339_nano(wall_ns: int) -> str:
    return f"{_second(wall_ns // 10**9)}.{wall_ns % 10**9:09d}Z"


def _iso8601(wall_ns: int) -> str:
    return _millisecond(wall_ns // 10**6) + "+0000"


def _epoch(wall_ns: int) -> float:
    return wall_ns / 1e9


def _millis(wall_ns: int) -> float:
    return wall_ns / 1e6


def _nano(wall_ns: int) -> int:
    return wall_ns


Stamp = Callable[[int], str | float]
_STAMPS: Mapping[TimeEncoding, Stamp] = {
    TimeEncoding.RFC3339: _rfc3339,
    TimeEncoding.RFC3339_NANO: _rfc3339_nano,
    TimeEncoding.ISO8601: _iso8601,
    TimeEncoding.EPOCH: _epoch,
    TimeEncoding.MILLIS: _millis,
    TimeEncoding.NANO: _nano,
}


def timestamp(wall_ns: int, encoding: TimeEncoding) -> str | float:
    """The time as zap would write it, in UTC; RFC 3339 with milliseconds."""
    return _STAMPS[encoding](wall_ns)


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    """``strftime`` costs as much as a whole line: once a second is enough."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(maxsize=1)
def _millisecond(millisecond: int) -> str:
    """Under load several lines are of the same one."""
    return f"{_second(millisecond // 1000)}.{millisecond % 1000:03d}"


def _clock(wall_ns: int) -> str:
    """The time for a person who looks on: UTC, as in the other form."""
    return _millisecond(wall_ns // 10**6)[11:]


def _console_fields(fields: Iterable[tuple[str, Any]]) -> str:
    return " ".join([f"{name}={_console_value(value)}" for name, value in fields if value is not UNSET])


def _console_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or " " in value or '"' in value else value
    return str(value)


class _Formatter(logging.Formatter):
    """Ordinary log records in the same two forms; fields come in ``extra={"fields": {...}}``."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        wall_ns = int(record.created * 1e9)
        message = escape(record.getMessage())
        fields: dict[str, Any] = {
            name: escape(value) if isinstance(value, str) else value
            for name, value in getattr(record, "fields", {}).items()
        }
        trace = ""
        if record.exc_info and record.levelno >= self._settings.stacktrace_level:
            trace = self.formatException(record.exc_info)
        level = _LEVEL_NAMES.get(record.levelno, record.levelname.lower())
        if self._settings.encoder is Encoder.CONSOLE:
            line = f"{_clock(wall_ns)} {level.upper():5} {message} {_console_fields(fields.items())}".rstrip()
            return f"{line}\n{trace}" if trace else line
        head = {"level": level, "ts": timestamp(wall_ns, self._settings.time_encoding)}
        head |= {"logger": record.name, "msg": message}
        if trace:
            fields["stacktrace"] = trace
        return msgspec.json.encode(head | fields, enc_hook=repr).decode()


def configure(settings: LogSettings, *, fd: int = 2, later: Later | None = None) -> RequestLog:
    """Send everything to the descriptor ``fd``; without a given encoder a terminal gets plain text.

    ``later``: as in RequestLog; not used for a terminal.
    """
    is_terminal = os.isatty(fd)
    if settings.encoder is None:
        encoder = Encoder.CONSOLE if is_terminal else Encoder.JSON
        settings = LogSettings(
            level=settings.level,
            encoder=encoder,
            time_encoding=settings.time_encoding,
            stacktrace_level=settings.stacktrace_level,
        )
    stream = os.fdopen(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other people's libraries
    logging.getLogger("epp").setLevel(settings.level)
    return RequestLog(settings, fd, None if is_terminal else later)


def warn_of(warnings: Iterable[str]) -> None:
    """What the configuration says without effect."""
    for warning in warnings:
        logging.getLogger("epp.config").warning("configuration", extra={"fields": {"warning": warning}})
