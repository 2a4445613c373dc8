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
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

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
    return escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…")


def request_fields(outcome: Outcome) -> dict[str, Any]:
    """What the request line says; unknown facts are left out."""
    fields: dict[str, Any] = {}
    request, decision, rejection, usage = outcome.request, outcome.decision, outcome.rejection, outcome.usage
    received = outcome.received_at
    request_id = outcome.request_id if request is None else request.id
    if request_id:
        fields["request_id"] = clean(request_id)
    path = outcome.path if request is None else request.path
    if path:
        fields["path"] = clean(path.partition("?")[0])  # a query may hold a secret
    if request is not None:
        if request.payload.model:
            fields["model"] = clean(request.payload.model)
        if request.target_model != request.payload.model:
            fields["target_model"] = clean(request.target_model)
    if decision is not None:
        endpoint = decision.endpoints[0]
        fields["endpoint"] = endpoint.name
        fields["address"] = endpoint.address
        if outcome.served is not None and outcome.served != endpoint.address:
            fields["served"] = clean(outcome.served)
    if rejection is not None:
        fields["status"] = rejection.status
        fields["code"] = rejection.code.spelling
        fields["reason"] = clean(rejection.message)
    elif outcome.status is not None:
        fields["status"] = outcome.status
    if outcome.first_token_at is not None:
        fields["ttft_ms"] = round((outcome.first_token_at - received) * 1000, 1)
    fields["duration_ms"] = round((outcome.ended_at - received) * 1000, 1)
    if usage is not None:
        fields |= {
            name: count
            for name, count in (
                ("prompt_tokens", usage.prompt_tokens),
                ("cached_tokens", usage.cached_tokens),
                ("completion_tokens", usage.completion_tokens),
            )
            if count is not None
        }
    if outcome.finish is not None:
        fields["finish"] = clean(outcome.finish)
    if outcome.error is not None:
        fields["error"] = clean(outcome.error)
    if rejection is None and not outcome.response_complete:
        fields["incomplete"] = True
    return fields


FLUSH_SECONDS = 0.05
FLUSH_BYTES = 1 << 16
Later = Callable[[float, Callable[[], None]], object]
"""Call something after so many seconds: ``loop.call_later``."""


class RequestLog:
    """Writes the request line; ``lost`` counts lines that the stream did not take.

    Without ``later`` every line is written at once, as people at a terminal want it. With it, the
    lines of FLUSH_SECONDS leave in one system call: a call for each would be a tenth of a request.
    """

    __slots__ = ("_console", "_fd", "_held_bytes", "_later", "_lines", "_time", "enabled", "lost")

    def __init__(self, settings: LogSettings, fd: int, later: Later | None = None) -> None:
        self.enabled = settings.level <= logging.INFO
        self.lost = 0
        self._fd = fd
        self._console = settings.encoder is Encoder.CONSOLE
        self._time = settings.time_encoding
        self._later = later
        self._lines: list[bytes] = []
        self._held_bytes = 0

    def finished(self, outcome: Outcome) -> None:
        if not self.enabled:
            return
        line = self.line(outcome, time.time_ns())
        self._lines.append(line)
        self._held_bytes += len(line)
        if self._later is None or self._held_bytes >= FLUSH_BYTES:
            self.flush()
        elif len(self._lines) == 1:
            self._later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is held; at the end, too."""
        lines, self._lines, self._held_bytes = self._lines, [], 0
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:  # a full disk or a closed pipe must not fail the request that it tells of
            self.lost += len(lines)

    def line(self, outcome: Outcome, wall_ns: int) -> bytes:
        """The line, with its end."""
        fields = request_fields(outcome)
        if self._console:
            return f"{_clock(wall_ns)} INFO  request {_console_fields(fields)}\n".encode(errors="replace")
        head = {
            "level": "info",
            "ts": timestamp(wall_ns, self._time),
            "logger": "epp.request",
            "msg": "request",
        }
        return msgspec.json.encode(head | fields) + b"\n"


def timestamp(wall_ns: int, encoding: TimeEncoding) -> str | float | int:
    """The time as zap would write it, in UTC; RFC 3339 with milliseconds."""
    match encoding:
        case TimeEncoding.RFC3339:
            return f"{_second(wall_ns // 10**9)}.{wall_ns // 10**6 % 1000:03d}Z"
        case TimeEncoding.RFC3339_NANO:
            return f"{_second(wall_ns // 10**9)}.{wall_ns % 10**9:09d}Z"
        case TimeEncoding.ISO8601:
            return f"{_second(wall_ns // 10**9)}.{wall_ns // 10**6 % 1000:03d}+0000"
        case TimeEncoding.EPOCH:
            return wall_ns / 1e9
        case TimeEncoding.MILLIS:
            return wall_ns / 1e6
        case TimeEncoding.NANO:
            return wall_ns


_last_second: tuple[int, str] = (-1, "")


def _second(second: int) -> str:
    """``strftime`` costs as much as a whole line: once a second is enough."""
    global _last_second  # noqa: PLW0603 (a cache of one entry)
    known, text = _last_second
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last_second = (second, text)
    return text


def _clock(wall_ns: int) -> str:
    """The time for a person who looks on: UTC, as in the other form."""
    return f"{_second(wall_ns // 10**9)[11:]}.{wall_ns // 10**6 % 1000:03d}"


def _console_fields(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_console_value(value)}" for name, value in fields.items())


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
            line = f"{_clock(wall_ns)} {level.upper():5} {message} {_console_fields(fields)}".rstrip()
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
