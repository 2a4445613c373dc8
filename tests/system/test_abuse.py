"""Peers that break rules, take too much or never move: each gets its answer, and the others are served on."""

import random
import select
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench import frames
from bench.frames import (
    DEFAULT_WINDOW,
    LARGEST_WINDOW,
    PROCESS,
    Setting,
    block,
    call,
    data,
    headers,
    message,
    request,
)
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.runtime.fast.server import HANDSHAKE_SECONDS, UNREAD_SECONDS
from tests.fast.abuse import CONNECTION, STREAM, Abuse
from tests.system.talk import (
    DEADLINE,
    footprint,
    request_body,
    request_headers,
    wait_at_rest,
    wait_footprint,
)
from tests.system.wire import Wire

MIB = 1 << 20
MAX_CONNECTIONS = 1_000
HEADERS = message(request_headers().SerializeToString())
FLOOD_SECONDS = 30.0
"""Within which a flood is over, one way or another, and each request of a neighbour is answered."""
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 4, 8, 12, 13


def _picker(logs: Path, driver: str, server: LlamaServer, *, tls: bool, name: str = "abuse") -> Picker:
    return Picker(
        logs=logs,
        name=f"picker-{name}-{driver}{'-tls' * tls}",
        endpoints={"a": server.address},
        driver=driver,
        tls=tls,
        flags=["--grpc-max-recv-msg-size", "1MiB"],
    )


@pytest.fixture(scope="module")
def plain(logs: Path, driver: str, _servers: list[LlamaServer]) -> Iterator[Picker]:
    with _picker(logs, driver, _servers[0], tls=False) as picker:
        yield picker


@pytest.fixture(scope="module")
def secure(logs: Path, driver: str, _servers: list[LlamaServer]) -> Iterator[Picker]:
    with _picker(logs, driver, _servers[0], tls=True) as picker:
        yield picker


@pytest.fixture(scope="module")
def _neighbours(plain: Picker, secure: Picker) -> Iterator[dict[Picker, Wire]]:
    """Connections that are there before the first peer misbehaves, and after the last."""
    with Wire(plain) as one, Wire(secure) as other:
        yield {plain: one, secure: other}


@pytest.fixture(autouse=True)
def _serves_on(_neighbours: dict[Picker, Wire], request: pytest.FixtureRequest) -> Iterator[None]:
    """After each of these tests the same process serves its other peers, and holds nothing of this one."""
    ids = {picker: picker.pid for picker in _neighbours}
    before = {picker: footprint(picker) for picker in _neighbours}
    yield
    for picker, neighbour in _neighbours.items():
        assert picker.pid == ids[picker]
        assert neighbour.is_served(_next_stream())
        wait_at_rest(picker)
        wait_footprint(picker, before[picker])
        assert "Traceback" not in picker.log.read_text()


_streams = iter(range(1, 10**6, 2))


def _next_stream() -> int:
    return next(_streams)


def lines(picker: Picker, text: str) -> list[str]:
    return [line for line in picker.log.read_text().splitlines() if text in line]


only_fast = pytest.mark.driver("fast")
"""gRPC's own server has other limits and other codes."""

# --- against the rules -------------------------------------------------------------------------------


@only_fast
@pytest.mark.parametrize("abuse", CONNECTION.values(), ids=CONNECTION.keys())
def test_a_connection_that_breaks_the_rules_is_closed_with_a_reason(abuse: Abuse, plain: Picker) -> None:
    with Wire(plain, acknowledged=abuse.acknowledged) as peer:
        sent = list(abuse.sent(PROCESS))
        peer.send(sent)
        heard = peer.until_closed()
    assert heard is abuse.code or (heard is None and len(sent) > 1_000), heard


@only_fast
@pytest.mark.parametrize("abuse", STREAM.values(), ids=STREAM.keys())
def test_a_stream_that_breaks_the_rules_is_reset_alone(abuse: Abuse, plain: Picker) -> None:
    with Wire(plain) as peer:
        peer.send(abuse.sent(PROCESS))
        peer.until(lambda: peer[1].reset is not None)
        assert peer[1].reset is abuse.code
        assert peer.is_served()


@pytest.mark.parametrize(
    "name", ["streams opened to be reset", "a flood of PING", "CONTINUATION without end"]
)
def test_a_flood_does_not_keep_others_waiting(name: str, plain: Picker, driver: str) -> None:
    """On either driver; who is refused, and when, is the driver's own affair. Ours ends the connection."""
    flood, served = CONNECTION[name], 0
    with Wire(plain) as peer, Wire(plain) as other, ThreadPoolExecutor(1) as aside:
        peer.socket.settimeout(FLOOD_SECONDS)
        flooding = aside.submit(peer.send, flood.sent(PROCESS))
        while not served or not flooding.done():
            asked = time.monotonic()
            assert other.is_served(2 * served + 1)
            assert time.monotonic() - asked < FLOOD_SECONDS
            served += 1
        flooding.result()
        if driver == "fast":
            assert peer.until_closed() in (flood.code, None), (
                "None: it went on sending, and lost what we said"
            )
        assert other.is_served(2 * served + 1)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_more_than_a_closed_connection(seed: int, plain: Picker, secure: Picker) -> None:
    noise = random.Random(seed)
    for picker in (plain, secure):
        with socket.create_connection(("127.0.0.1", picker.grpc_port), timeout=DEADLINE) as peer:
            peer.sendall(noise.randbytes(noise.randrange(40, 5_000)))
            peer.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while peer.recv(1 << 16):
                    pass


# --- the other protocol ------------------------------------------------------------------------------


def knock(picker: Picker, said: bytes) -> bytes:
    """Say something and listen until the picker closes."""
    with socket.create_connection(("127.0.0.1", picker.grpc_port), timeout=DEADLINE) as peer:
        peer.sendall(said)
        heard = b""
        with suppress(ConnectionError):
            while some := peer.recv(1 << 16):
                heard += some
    return heard


def test_tls_to_the_plaintext_port_is_closed_and_said_once(plain: Picker, driver: str) -> None:
    context = ssl.create_default_context()
    for _ in range(5):
        with (
            socket.create_connection(("127.0.0.1", plain.grpc_port), timeout=DEADLINE) as peer,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(peer, server_hostname="localhost")
    if driver == "fast":
        wait_until(lambda: bool(lines(plain, "TLS on a plaintext port")), what="a line in the log")
        (line,) = lines(plain, "TLS on a plaintext port")
        assert "--secure-serving" in line and "WARN" in line.upper()


def test_http_1_is_closed(plain: Picker) -> None:
    knock(plain, b"GET /metrics HTTP/1.1\r\nhost: picker\r\n\r\n")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(frames.PREFACE + frames.settings(), id="http2"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http1"),
    ],
)
def test_plaintext_to_the_tls_port_is_closed_and_said_once(said: bytes, secure: Picker, driver: str) -> None:
    for _ in range(5):
        knock(secure, said)
    if driver == "fast":
        wait_until(lambda: bool(lines(secure, "TLS handshake failed")), what="a line in the log")
        (line,) = lines(secure, "TLS handshake failed")
        assert "--secure-serving=false" in line


# --- gRPC --------------------------------------------------------------------------------------------


def answered(picker: Picker, *sent: bytes) -> tuple[int | None, Wire]:
    """What becomes of stream 1: its gRPC status."""
    with Wire(picker) as peer:
        peer.send(sent)
        peer.until(lambda: peer[1].is_over)
        return peer[1].status, peer


def test_a_message_over_the_limit_is_too_much(plain: Picker, secure: Picker) -> None:
    for picker in (plain, secure):
        large = message(request_body(b"x" * MIB).SerializeToString())
        pieces = [data(1, large[at : at + 16_384]) for at in range(0, len(large), 16_384)]
        with Wire(picker) as peer:
            peer.send([call(1), data(1, HEADERS), pieces[0]])  # its length says enough
            peer.until(lambda: peer[1].is_over)
            assert peer[1].status == RESOURCE_EXHAUSTED
            peer.send(pieces[1:4])
            assert peer.is_served()


def test_an_unknown_method_is_unimplemented(plain: Picker) -> None:
    for path in ("/envoy.service.ext_proc.v3.ExternalProcessor/Other", "/x/y", "/"):
        status, _ = answered(plain, call(1, path), data(1, message(b""), ended=True))
        assert status == UNIMPLEMENTED


@only_fast
def test_what_is_no_grpc_gets_an_http_status(plain: Picker) -> None:
    _, peer = answered(plain, headers(1, block(request(kind="application/json"))), data(1, b"{}", ended=True))
    assert peer[1].headers[":status"] == "415"


@only_fast
def test_a_compressed_message_is_refused(plain: Picker) -> None:
    compressed = data(1, message(b"x", compressed=True))
    assert answered(plain, call(1, PROCESS, ("grpc-encoding", "snappy")), compressed)[0] == UNIMPLEMENTED
    assert answered(plain, call(1), compressed)[0] == INTERNAL


@only_fast
def test_a_message_cut_off_by_the_end_is_an_error(plain: Picker) -> None:
    assert answered(plain, call(1), data(1, HEADERS + HEADERS[:7], ended=True))[0] == INTERNAL


def test_rubbish_in_a_message_is_an_error(plain: Picker) -> None:
    status, peer = answered(plain, call(1), data(1, message(b"\xff\xff\xff")))
    assert status == 3 and peer[1].headers["grpc-message"]


def test_a_deadline_is_kept(plain: Picker) -> None:
    status, _ = answered(plain, call(1, PROCESS, ("grpc-timeout", "300m")), data(1, HEADERS))
    assert status == DEADLINE_EXCEEDED


# --- peers that do not move --------------------------------------------------------------------------


@only_fast
def test_who_does_not_come_to_the_point_is_closed(plain: Picker, secure: Picker) -> None:
    """All of them at once, since each takes its time."""
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    said = hello.read()
    half_block = block(request())[:20]
    begun = frames.PREFACE + frames.settings()
    began = time.monotonic()
    with ExitStack() as stack:

        def silent(picker: Picker, said: bytes) -> socket.socket:
            address = ("127.0.0.1", picker.grpc_port)
            peer = stack.enter_context(socket.create_connection(address, timeout=DEADLINE))
            peer.sendall(said)
            return peer

        peers = {
            "says nothing": silent(plain, b""),
            "says half a preface": silent(plain, frames.PREFACE[:10]),
            "sends a byte now and then": silent(plain, b""),
            "does not end its header block": silent(plain, begun + headers(1, half_block, whole=False)),
            "says nothing in TLS": silent(secure, b""),
            "stops in its handshake": silent(secure, said),
            "stops in its hello": silent(secure, said[:100]),
        }
        slow, more = peers["sends a byte now and then"], iter(begun)
        waiting = dict(peers)
        while waiting:
            assert time.monotonic() - began < 40, waiting
            for name, peer in list(waiting.items()):
                peer.settimeout(1.0 if peer is slow else 0.05)
                with suppress(TimeoutError, ConnectionError):
                    while peer.recv(1 << 16):
                        pass
                    waiting.pop(name)
                    assert time.monotonic() - began >= HANDSHAKE_SECONDS - 0.1, f"{name}: it had time left"
            with suppress(OSError):
                slow.send(bytes([next(more)]))
        with Wire(plain) as one, Wire(secure) as other:
            assert one.is_served() and other.is_served()


class NeverReads:
    """Has bodies sent back, as many as it can, and reads nothing of them."""

    def __init__(self, picker: Picker) -> None:
        self.wire = Wire(picker)
        self.sent_bytes = 0
        windows = frames.settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
        self.wire.send([windows, frames.window_update(0, LARGEST_WINDOW - DEFAULT_WINDOW)])
        self.wire.socket.settimeout(STALLED_SECONDS)

    def send(self) -> None:
        """Until nothing is taken any more, or all that is offered has been."""
        stream = 1
        with suppress(TimeoutError):
            while self.sent_bytes < OFFERED_BYTES:
                self.wire.socket.sendall(to_be_echoed(stream))
                self.sent_bytes += len(BODY)
                stream += 2

    def wait_closed(self) -> float:
        """When the picker closed it [s, monotonic], which is seen without reading."""
        poll = select.poll()
        poll.register(self.wire.socket, 0)
        assert poll.poll(DEADLINE * 1e3), "never closed"
        return time.monotonic()


BODY = bytes(60_000)
OFFERED_BYTES, MOST_BYTES = 300 * MIB, 50 * MIB
"""How much a peer would send, and what it may get rid of: the sockets hold some ten MB of it."""
STALLED_SECONDS = 4.0


def to_be_echoed(stream: int) -> bytes:
    asked = message(request_headers("/anything").SerializeToString())
    return call(stream) + data(stream, asked) + data(stream, message(request_body(BODY).SerializeToString()))


@pytest.fixture(scope="module", autouse=True)
def unread(logs: Path, _servers: list[LlamaServer]) -> Iterator[Future[None]]:
    """What holds of peers that never read; found out beside the other tests, since it takes half a minute."""
    with ThreadPoolExecutor() as aside, ExitStack() as stack:
        pickers = [_picker(logs, "fast", _servers[0], tls=tls, name="unread") for tls in (False, True)]
        yield aside.submit(_never_read, [stack.enter_context(picker) for picker in pickers])


def _never_read(pickers: list[Picker]) -> None:
    """By one peer of each; all that it asks for would be held there."""
    began = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor() as aside:
        others = [stack.enter_context(Wire(picker)) for picker in pickers]
        for other in others:
            other.send([to_be_echoed(1)])
            other.until(lambda other=other: len(other[1].messages) == 2)
            assert BODY in other[1].messages[1], "a body comes back"
        resident = [picker.rss_bytes() for picker in pickers]
        peers = [NeverReads(picker) for picker in pickers]
        for peer in peers:
            stack.enter_context(peer.wire)
        list(aside.map(NeverReads.send, peers))
        assert all(0 < peer.sent_bytes < MOST_BYTES for peer in peers)
        for picker, before in zip(pickers, resident, strict=True):
            assert picker.rss_bytes() - before < 20 * MIB
        assert all(other.is_served() for other in others)
        for peer in peers:
            assert UNREAD_SECONDS <= peer.wait_closed() - began < UNREAD_SECONDS + DEADLINE / 4
        assert all(other.is_served(2 * 10**8 + 3) for other in others)
    for picker in pickers:
        assert len(lines(picker, f"answers unread for {UNREAD_SECONDS:g} s")) == 1


@only_fast
def test_who_never_reads_is_read_from_no_more_and_closed_in_the_end(
    driver: str, unread: Future[None]
) -> None:
    unread.result()


@only_fast
def test_more_connections_than_allowed_are_refused_and_the_old_ones_served(plain: Picker) -> None:
    with ExitStack() as stack:
        peers: list[Wire] = []
        while (newest := stack.enter_context(Wire(plain))).hear():
            peers.append(newest)
        assert MAX_CONNECTIONS - 10 <= len(peers) < MAX_CONNECTIONS, "the neighbour is one, too"
        assert peers[0].is_served() and peers[-1].is_served()
        peers[5].socket.close()
        wait_until(lambda: is_taken(plain), what="room for a connection", timeout=DEADLINE)
        assert len(lines(plain, "connection refused")) == 1


def is_taken(picker: Picker) -> bool:
    with Wire(picker) as peer:
        return bool(peer.hear()) and peer.is_served()


def test_connections_that_come_and_go_leave_nothing(plain: Picker, secure: Picker) -> None:
    for number in range(300):
        picker = secure if number % 10 == 0 else plain
        with Wire(picker) as peer:
            peer.send([call(1), data(1, HEADERS)][: number % 3])
            if number % 2:
                peer.hear()
