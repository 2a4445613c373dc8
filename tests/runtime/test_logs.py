"""What a line in the log looks like, and what it cannot be made to look like."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config import flags
from epp.core.events import Outcome
from epp.core.fleet import Endpoint, EndpointSpec, Reservation
from epp.core.rejection import NO_CANDIDATES
from epp.core.request import Payload, Request
from epp.core.response_reader import Usage
from epp.core.scheduling import Decision
from epp.runtime.logs import (
    FLUSH_BYTES,
    FLUSH_SECONDS,
    Encoder,
    LogSettings,
    RequestLog,
    TimeEncoding,
    configure,
    timestamp,
)

NOON_NS = 1_795_089_600_123_456_789  # 2026-11-19T12:00:00.123456789Z
JSON = LogSettings(encoder=Encoder.JSON)
CONSOLE = LogSettings(encoder=Encoder.CONSOLE)


def outcome(**facts: object) -> Outcome:
    endpoint = Endpoint(EndpointSpec(name="gpu-0", ip="10.0.0.1", port=8000))
    made = Outcome(
        received_at=10.0,
        request=Request(id="r1", path="/v1/chat/completions", payload=Payload(model="m"), target_model="m"),
        decision=Decision([endpoint], Reservation(endpoint, 1), [endpoint], {}, [1.0]),
        status=200,
        first_token_at=10.05,
        ended_at=11.5,
        response_complete=True,
        usage=Usage(100, 20, None),
    )
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def line(made: Outcome, settings: LogSettings = JSON) -> str:
    return RequestLog(settings, -1).line(made, NOON_NS).decode()


def test_a_request_is_one_line_of_json() -> None:
    assert json.loads(line(outcome())) == {
        "level": "info",
        "ts": "2026-11-19T12:00:00.123Z",
        "logger": "epp.request",
        "msg": "request",
        "request_id": "r1",
        "path": "/v1/chat/completions",
        "model": "m",
        "endpoint": "gpu-0",
        "address": "10.0.0.1:8000",
        "status": 200,
        "ttft_ms": 50.0,
        "duration_ms": 1500.0,
        "prompt_tokens": 100,
        "completion_tokens": 20,
    }


def test_at_a_terminal_it_is_one_line_of_text() -> None:
    assert line(outcome(), CONSOLE) == (
        "12:00:00.123 INFO  request request_id=r1 path=/v1/chat/completions model=m endpoint=gpu-0"
        " address=10.0.0.1:8000 status=200 ttft_ms=50.0 duration_ms=1500.0 prompt_tokens=100"
        " completion_tokens=20\n"
    )


def test_a_refused_request_says_why() -> None:
    fields = json.loads(
        line(outcome(decision=None, rejection=NO_CANDIDATES, usage=None, first_token_at=None))
    )
    assert (fields["status"], fields["code"]) == (503, "ServiceUnavailable")
    assert fields["reason"] == "failed to find endpoint candidates for serving the request"
    assert "endpoint" not in fields and "ttft_ms" not in fields and "incomplete" not in fields


EVERYTHING = {
    "request": Request(
        id="r1", path="/v1/x?key=secret", payload=Payload(model="m"), target_model="n", priority=-5
    ),
    "served": "10.0.0.9:1",
    "response_complete": False,
    "usage": Usage(100, 20, 50),
    "finish": "stop",
    "error": 'out "of" memory',
}


def test_every_fact_has_its_place_in_the_line() -> None:
    assert line(outcome(**EVERYTHING)) == (
        '{"level":"info","ts":"2026-11-19T12:00:00.123Z","logger":"epp.request","msg":"request",'
        '"request_id":"r1","path":"/v1/x","model":"m","target_model":"n","priority":-5,"endpoint":"gpu-0",'
        '"address":"10.0.0.1:8000","served":"10.0.0.9:1","status":200,"ttft_ms":50.0,"duration_ms":1500.0,'
        '"prompt_tokens":100,"cached_tokens":50,"completion_tokens":20,"finish":"stop",'
        '"error":"out \\"of\\" memory","incomplete":true}\n'
    )
    assert line(outcome(**EVERYTHING), CONSOLE) == (
        "12:00:00.123 INFO  request request_id=r1 path=/v1/x model=m target_model=n priority=-5"
        " endpoint=gpu-0 address=10.0.0.1:8000 served=10.0.0.9:1 status=200 ttft_ms=50.0 duration_ms=1500.0"
        " prompt_tokens=100 cached_tokens=50 completion_tokens=20 finish=stop"
        ' error="out \\"of\\" memory" incomplete=True\n'
    )


def test_what_never_became_a_request_has_its_refusal_where_the_answer_would_be() -> None:
    refused = outcome(
        request=None, request_id="r2", path="/x", decision=None, usage=None, rejection=NO_CANDIDATES
    )
    refused.status, refused.first_token_at = None, None
    assert line(refused) == (
        '{"level":"info","ts":"2026-11-19T12:00:00.123Z","logger":"epp.request","msg":"request",'
        '"request_id":"r2","path":"/x","status":503,"code":"ServiceUnavailable",'
        '"reason":"failed to find endpoint candidates for serving the request","duration_ms":1500.0}\n'
    )


@given(seconds=st.floats(0, 1e6))
def test_durations_are_milliseconds_with_one_decimal(seconds: float) -> None:
    made = outcome(received_at=0.0, ended_at=seconds, first_token_at=seconds)
    fields = json.loads(line(made))
    assert fields["duration_ms"] == fields["ttft_ms"] == pytest.approx(seconds * 1000, abs=0.0501)
    assert len(repr(fields["duration_ms"]).partition(".")[2]) == 1


@pytest.mark.parametrize(
    "facts, expected",
    [
        pytest.param({"response_complete": False, "status": None}, {"incomplete": True}, id="broken off"),
        pytest.param({"served": "10.0.0.9:1"}, {"served": "10.0.0.9:1"}, id="served by another one"),
        pytest.param({"error": "oom"}, {"error": "oom"}, id="error inside a 200"),
    ],
)
def test_what_is_unusual_is_said(facts: dict[str, object], expected: dict[str, object]) -> None:
    assert json.loads(line(outcome(**facts))).items() >= expected.items()


def test_what_was_not_to_be_seen_is_not_broken_off() -> None:
    fields = json.loads(line(outcome(response_complete=False, is_unseen=True, status=None)))
    assert "incomplete" not in fields and "status" not in fields
    assert fields["duration_ms"] == 1500.0


@pytest.mark.parametrize("whole", [False, True])
def test_a_stream_that_we_left_has_a_duration_only_if_the_answer_had_ended(*, whole: bool) -> None:
    left = outcome(response_complete=whole, is_unseen=True, is_left=True)
    assert ("duration_ms" in json.loads(line(left))) == whole


@given(
    text=st.text(max_size=400)
    | st.sampled_from(["a\nb", "\x1b[2J", "\x9b31m", "\udcff", "\u2028", '"', "\\"])
)
def test_no_client_can_end_a_line_or_command_a_terminal(text: str) -> None:
    for settings in (JSON, CONSOLE):
        asked = Request(id=text, path=text, payload=Payload(model=text), target_model=text)
        written = line(outcome(request=asked, error=text), settings)
        assert written.endswith("\n") and written[:-1].isprintable()
        if settings is JSON:
            assert json.loads(written)["msg"] == "request"


def test_a_long_text_is_cut() -> None:
    asked = Request(id="x" * 10**6, path="/", payload=Payload(model="m"), target_model="m")
    assert len(line(outcome(request=asked))) < 1000


@pytest.mark.parametrize(
    "encoding, expected",
    [
        (TimeEncoding.EPOCH, 1795089600.1234567),
        (TimeEncoding.MILLIS, 1795089600123.4568),
        (TimeEncoding.NANO, NOON_NS),
        (TimeEncoding.ISO8601, "2026-11-19T12:00:00.123+0000"),
        (TimeEncoding.RFC3339, "2026-11-19T12:00:00.123Z"),
        (TimeEncoding.RFC3339_NANO, "2026-11-19T12:00:00.123456789Z"),
    ],
)
def test_times_are_written_as_zap_writes_them(encoding: TimeEncoding, expected: object) -> None:
    assert timestamp(NOON_NS, encoding) == expected


@pytest.mark.parametrize(
    "argument, level, enabled",
    [
        ("-v=0", logging.INFO, True),
        ("-v=2", logging.INFO, True),
        ("-v=3", logging.DEBUG, True),
        ("--zap-log-level=debug", logging.DEBUG, True),
        ("--zap-log-level=error", logging.ERROR, False),
        ("--zap-log-level=panic", logging.CRITICAL, False),
    ],
)
def test_levels_come_from_the_command_line(argument: str, level: int, enabled: bool) -> None:
    settings = LogSettings.of(flags.parse(["--endpoints-file=x", argument], {}))
    assert settings.level == level
    assert RequestLog(settings, -1).enabled is enabled


def test_lines_of_one_second_and_of_many_tell_their_own_time() -> None:
    log, half = RequestLog(JSON, -1), NOON_NS + 500_000_000
    told = [json.loads(log.line(outcome(), ns))["ts"] for ns in (NOON_NS, half, NOON_NS, NOON_NS + 10**9)]
    assert [ts[17:] for ts in told] == ["00.123Z", "00.623Z", "00.123Z", "01.123Z"]


def test_a_line_that_cannot_be_written_is_counted_and_fails_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = RequestLog(JSON, writer)
    log.finished(outcome())
    os.close(writer)
    assert log.lost == 1


def test_of_lines_that_were_written_in_part_the_rest_is_lost() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    room = os.write(writer, b"x" * (1 << 20))  # what the pipe holds; half of it is read again
    os.read(reader, room // 2)
    log = RequestLog(JSON, writer, lambda seconds, flush: None)
    told = room * 2 // 3 // len(log.line(outcome(), NOON_NS))
    for _ in range(told):
        log.finished(outcome())
    log.flush()
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        written = stream.read().count(b"\n")
    assert written > 0 and log.lost == told - written > 0


def test_lines_that_come_together_leave_together_and_none_waits_long(tmp_path: Path) -> None:
    due: list[tuple[float, Callable[[], None]]] = []
    with (tmp_path / "log").open("wb") as file:
        log = RequestLog(JSON, file.fileno(), lambda seconds, flush: due.append((seconds, flush)))
        log.finished(outcome())
        log.finished(outcome())
        assert (tmp_path / "log").read_bytes() == b""
        ((seconds, flush),) = due
        assert seconds == FLUSH_SECONDS
        flush()
        assert len((tmp_path / "log").read_bytes().splitlines()) == 2
        log.finished(outcome())
        assert len(due) == 2, "the next line asks for its own writing"


def test_held_lines_are_bounded_and_one_timer_is_enough_for_all(tmp_path: Path) -> None:
    due: list[Callable[[], None]] = []
    with (tmp_path / "log").open("wb") as file:
        log = RequestLog(JSON, file.fileno(), lambda seconds, flush: due.append(flush))
        size = len(log.line(outcome(), NOON_NS))
        for _ in range(FLUSH_BYTES // size + 1):
            log.finished(outcome())
        written = (tmp_path / "log").stat().st_size
        assert written >= FLUSH_BYTES
        log.finished(outcome())
        assert len(due) == 1
        due[0]()
        assert (tmp_path / "log").stat().st_size == written + size


def test_at_the_end_everything_is_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log = RequestLog(JSON, file.fileno(), lambda seconds, flush: None)
        for _ in range(3):
            log.finished(outcome())
        log.flush()
        assert len((tmp_path / "log").read_bytes().splitlines()) == 3


def test_nothing_is_made_of_a_line_that_nobody_wants() -> None:
    log = RequestLog(LogSettings(level=logging.ERROR, encoder=Encoder.JSON), -1)
    log.finished(cast("Outcome", object()))  # whatever would be read of it is not there
    assert log.lost == 0


@pytest.fixture
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("epp")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before[0], before[1], before[2]


def lines(path: Path, settings: LogSettings, *, message: str, **how: object) -> list[str]:
    """What one ordinary log call leaves in the file."""
    with path.open("w") as file:
        configure(settings, fd=file.fileno())
        try:
            raise ValueError("broken\nhere")
        except ValueError:
            logging.getLogger("epp.test").error(message, **how)  # type: ignore[arg-type]
    return path.read_text().splitlines()


@pytest.mark.usefixtures("restored")
def test_other_lines_have_the_same_form(tmp_path: Path) -> None:
    how = {"extra": {"fields": {"file": "a\nb", "count": 3, "other": Path("/x")}}}
    (written,) = lines(tmp_path / "log", JSON, message="went\x1bwrong", **how)
    fields = json.loads(written)
    assert (fields["level"], fields["logger"], fields["msg"]) == ("error", "epp.test", "went\\x1bwrong")
    assert (fields["file"], fields["count"]) == ("a\\nb", 3)
    (written,) = lines(tmp_path / "log", CONSOLE, message="went wrong", **how)
    assert written.split(" ", 1)[1] == "ERROR went wrong file=a\\nb count=3 other=/x"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("level, traced", [(logging.ERROR, True), (logging.CRITICAL, False)])
def test_tracebacks_come_from_the_level_that_was_asked_for(tmp_path: Path, level: int, traced: bool) -> None:
    settings = LogSettings(encoder=Encoder.JSON, stacktrace_level=level)
    (written,) = lines(tmp_path / "log", settings, message="failed", exc_info=True)
    assert ("ValueError" in json.loads(written).get("stacktrace", "")) is traced


@pytest.mark.usefixtures("restored")
def test_without_a_terminal_lines_are_json(tmp_path: Path) -> None:
    (written,) = lines(tmp_path / "log", LogSettings(), message="failed")
    assert json.loads(written)["msg"] == "failed"
