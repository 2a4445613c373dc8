"""What peers do wrong is told once a minute for each reason, in words that lead to the remedy."""

import ssl

import pytest

from epp.runtime.complaints import EVERY_SECONDS, Complaints, address

PEER = ("::ffff:10.0.0.7", 40_000, 0, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def complaints(clock: Clock) -> Complaints:
    made = Complaints(clock)
    made.flag, made.port = "grpc-port", 9002
    return made


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [(record.message, record.__dict__["fields"]) for record in caplog.records]


def test_each_reason_is_told_once_a_minute_with_what_was_left_out(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        complaints.tell("refused", "one reason", PEER)
    complaints.tell("refused", "another reason", PEER)
    clock.now += EVERY_SECONDS - 1
    complaints.tell("refused", "one reason", PEER)
    clock.now += 1
    complaints.tell("refused", "one reason", PEER)
    common = {"port": 9002, "peer": "10.0.0.7:40000"}
    assert told(caplog) == [
        ("refused", {"reason": "one reason", **common}),
        ("refused", {"reason": "another reason", **common}),
        ("refused", {"reason": "one reason", **common, "left_out": 5}),
    ]


def test_reasons_without_end_do_not_add_up(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1_000):
        complaints.tell("refused", f"reason {number}", PEER)
    assert len(complaints._told) <= 100
    assert len(caplog.records) == 1_000


@pytest.mark.parametrize(
    "flag, first_bytes, told_of",
    [
        ("grpc-port", b"\x16\x03\x01\x02", ("TLS on a plaintext port", "--secure-serving")),
        ("grpc-health-port", b"\x16\x03\x01\x02", ("TLS on a plaintext port", "never TLS")),
        ("grpc-port", b"GET /metrics HTTP/1.1", ("HTTP/1.1 on a gRPC port", "http2_protocol_options")),
        ("grpc-port", b"PRI * HTTP/2.0\r\n", ("connection closed for its peer's fault", "a reason")),
        ("grpc-port", b"", ("connection closed for its peer's fault", "a reason")),
    ],
)
def test_a_fault_is_told_by_what_the_peer_speaks(
    complaints: Complaints,
    caplog: pytest.LogCaptureFixture,
    flag: str,
    first_bytes: bytes,
    told_of: tuple[str, str],
) -> None:
    complaints.flag = flag
    complaints.fault("a reason", first_bytes, PEER)
    ((said, fields),) = told(caplog)
    assert said == told_of[0] and told_of[1] in str(fields["reason"])


@pytest.mark.parametrize(
    "reason, remedy",
    [
        ("WRONG_VERSION_NUMBER", "turn TLS on at the gateway"),
        ("TLSV1_ALERT_UNKNOWN_CA", "--cert-path"),
        ("UNSUPPORTED_PROTOCOL", "--tls-min-version"),
        ("NO_SHARED_CIPHER", "no shared cipher"),
    ],
)
def test_a_handshake_that_fails_is_told_with_its_remedy(
    complaints: Complaints, caplog: pytest.LogCaptureFixture, reason: str, remedy: str
) -> None:
    failure = ssl.SSLError(1, "no shared cipher")
    failure.reason = reason
    complaints.handshake(failure, PEER)
    ((said, fields),) = told(caplog)
    assert said == "TLS handshake failed" and remedy in str(fields["reason"])


def test_a_handshake_that_is_cut_off_is_told_too(
    complaints: Complaints, caplog: pytest.LogCaptureFixture
) -> None:
    complaints.handshake(ConnectionResetError(), PEER)
    assert told(caplog)[0][1]["reason"] == "ConnectionResetError"


def test_addresses_read_as_people_write_them() -> None:
    assert address(("127.0.0.1", 5)) == "127.0.0.1:5"
    assert address(PEER) == "10.0.0.7:40000"
    assert address(("fe80::1", 5, 0, 0)) == "[fe80::1]:5"
    assert address(None) == ""
