"""GET over a kept-alive connection, and every way in which it can fail."""

import asyncio
import datetime as dt
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.runtime.http_client import Connection, Failure, FetchError, Response, Server, _Protocol
from tests.runtime.raw_server import (
    Peer,
    RawServer,
    Serve,
    answer,
    answering,
    descriptors,
    eventually,
    serving,
)

OK = answer(b"a 1\n", Server="test")


def connect(server: RawServer, **how: object) -> Connection:
    return Connection(Server(host="127.0.0.1", port=server.port), **how)  # type: ignore[arg-type]


def is_open(connection: Connection) -> bool:
    """Whether a kept-alive connection waits for the next request."""
    return connection._protocol is not None and connection._protocol.usable


@pytest.fixture(scope="module", autouse=True)
def uvloop_has_run() -> None:
    uvloop.run(asyncio.sleep(0))  # the first loop opens descriptors that stay


@pytest.fixture(autouse=True)
def nothing_stays_open(uvloop_has_run: None) -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


@pytest.mark.parametrize(
    "raw, body",
    [
        pytest.param(OK, b"a 1\n", id="length"),
        pytest.param(answer(b""), b"", id="empty"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="no-content"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n",
            b"a 1\n",
            id="chunked",
        ),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"a 1\n", id="interim-answer-first"
        ),
    ],
)
async def test_a_connection_is_used_again(raw: bytes, body: bytes) -> None:
    async with serving(answering(raw)) as server:
        connection = connect(server)
        for _ in range(3):
            assert (await connection.get("/metrics", 5.0)).body == body
        assert server.connections == 1
        await connection.aclose()


async def closing(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\na 1\n")


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(answering(answer(b"a 1\n", Connection="close")), id="close-announced"),
        pytest.param(answering(OK.replace(b"HTTP/1.1", b"HTTP/1.0")), id="http-1.0"),
        pytest.param(closing, id="end-of-connection-ends-the-body"),
    ],
)
async def test_a_connection_that_ends_with_its_answer_is_opened_again(serve: Serve) -> None:
    async with serving(serve) as server:
        connection = connect(server)
        for number in (1, 2):
            assert (await connection.get("/", 5.0)).body == b"a 1\n"
            assert not is_open(connection)
            assert server.connections == number
        await connection.aclose()


async def test_what_is_sent() -> None:
    async with serving(answering(OK)) as server:
        whom = Server(host="127.0.0.1", port=server.port, host_header="mac.lan:8080", bearer="s3cret")
        connection = Connection(whom)
        response = await connection.get("/metrics?x=1", 5.0)
        assert response == Response(200, {"content-length": "4", "server": "test"}, b"a 1\n")
        (request,) = server.requests
        assert request.startswith(b"GET /metrics?x=1 HTTP/1.1\r\nHost: mac.lan:8080\r\n")
        assert b"\r\nAuthorization: Bearer s3cret\r\n" in request
        assert "s3cret" not in repr(whom)
        await connection.aclose()


async def says_nothing(peer: Peer) -> None:
    await peer.until_gone()


async def hangs_up(peer: Peer) -> None:
    await peer.request()


async def resets(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def stalls(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK[:30])
    await peer.until_gone()


async def floods(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(3000):
        await peer.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


async def never_ends_its_headers(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        await peer.send(b"X-%d: y\r\n" % number)


def saying(raw: bytes) -> Serve:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.until_gone()

    return serve


def breaking_off(raw: bytes) -> Serve:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)

    return serve


@pytest.mark.parametrize(
    "serve, kind, words",
    [
        pytest.param(hangs_up, Failure.CLOSED, "closed before", id="hangs-up"),
        pytest.param(resets, Failure.CLOSED, "closed before", id="resets"),
        pytest.param(breaking_off(OK[:-1]), Failure.CLOSED, "closed before", id="breaks-off-in-the-body"),
        pytest.param(breaking_off(OK[:20]), Failure.CLOSED, "closed before", id="breaks-off-in-the-headers"),
        pytest.param(
            breaking_off(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n"),
            Failure.CLOSED,
            "closed before",
            id="breaks-off-between-chunks",
        ),
        pytest.param(says_nothing, Failure.TIMEOUT, "no answer within 0.2 s", id="never-answers"),
        pytest.param(stalls, Failure.TIMEOUT, "incomplete answer within 0.2 s", id="stalls"),
        pytest.param(saying(b"SSH-2.0-OpenSSH_9.6\r\n"), Failure.NOT_HTTP, "SSH-2.0", id="ssh"),
        pytest.param(saying(b"\x15\x03\x01\x00\x02\x02\x46"), Failure.NOT_HTTP, "not HTTP", id="a-tls-alert"),
        pytest.param(saying(b"+PONG\r\n"), Failure.NOT_HTTP, "PONG", id="redis"),
        pytest.param(
            saying(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            Failure.NOT_HTTP,
            "another protocol",
            id="upgrade",
        ),
        pytest.param(
            saying(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), Failure.NOT_HTTP, "HTTP", id="length"
        ),
        pytest.param(
            never_ends_its_headers, Failure.NOT_HTTP, "no end of the headers", id="headers-without-end"
        ),
        pytest.param(
            saying(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\nx"),
            Failure.TOO_LARGE,
            "over the limit of 100000 bytes",
            id="announces-50-mb",
        ),
        pytest.param(floods, Failure.TOO_LARGE, "over the limit of 100000 bytes", id="sends-100-mb"),
    ],
)
async def test_a_failure_has_its_kind_and_says_why(serve: Serve, kind: Failure, words: str) -> None:
    async with serving(serve) as server:
        connection = connect(server, max_body=100_000)
        within = 0.2 if kind is Failure.TIMEOUT else 10.0
        with pytest.raises(FetchError, match=words) as failure:
            await connection.get("/metrics", within)
        assert failure.value.kind is kind
        assert not is_open(connection)
        await connection.aclose()


async def test_a_closed_port_refuses() -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        connection = Connection(Server(host="127.0.0.1", port=taken.getsockname()[1]))
        with pytest.raises(FetchError, match="refuses connections") as failure:
            await connection.get("/", 5.0)
        assert failure.value.kind is Failure.REFUSED


@pytest.mark.parametrize(
    "number, kind, words",
    [
        pytest.param(errno.EMFILE, Failure.OURS, "cannot open a connection: Too many", id="descriptors"),
        pytest.param(errno.EADDRNOTAVAIL, Failure.OURS, "cannot open a connection", id="local-ports"),
        pytest.param(errno.EHOSTUNREACH, Failure.UNREACHABLE, "cannot reach 127.0.0.1", id="host"),
        pytest.param(errno.ENETUNREACH, Failure.UNREACHABLE, "cannot reach 127.0.0.1", id="network"),
        pytest.param(errno.ECONNREFUSED, Failure.REFUSED, "refuses connections", id="refused"),
        pytest.param(errno.ECONNRESET, Failure.CLOSED, "closed the connection at once", id="reset"),
        pytest.param(errno.ETIMEDOUT, Failure.TIMEOUT, "no connection", id="the-kernel-gave-up"),
    ],
)
async def test_what_the_system_says_has_its_kind(
    number: int, kind: Failure, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fails)
    connection = Connection(Server(host="127.0.0.1", port=9))
    with pytest.raises(FetchError, match=words) as failure:
        await connection.reach(5.0)
    assert failure.value.kind is kind


async def test_a_server_is_reached_without_asking_it_anything() -> None:
    async with serving(answering(OK)) as server:
        connection = connect(server)
        await connection.reach(5.0)
        assert is_open(connection)
        await connection.reach(5.0)
        await eventually(lambda: server.connections == 2)
        assert not server.requests, "each time a new connection, and no word on it"
        await connection.aclose()


async def test_closing_while_an_answer_is_awaited_is_the_end_of_the_wait() -> None:
    async with serving(says_nothing) as server:
        connection = connect(server)
        asking = asyncio.get_running_loop().create_task(connection.get("/", 5.0))
        await eventually(lambda: server.connections)
        await eventually(lambda: is_open(connection))
        await connection.aclose()
        with pytest.raises(FetchError) as failure:
            await asking
        assert failure.value.kind is Failure.CLOSED


async def test_a_name_without_address_is_unreachable() -> None:
    connection = Connection(Server(host="no-such-host.invalid", port=80))
    with pytest.raises(FetchError, match=r"no-such-host\.invalid") as failure:
        await connection.get("/", 10.0)
    assert failure.value.kind is Failure.UNREACHABLE


async def test_a_header_cannot_be_smuggled_in() -> None:
    with pytest.raises(ValueError, match="API key"):
        Connection(Server(host="127.0.0.1", port=1, bearer="x\r\nEvil: yes"))


async def test_an_idle_end_is_told_and_costs_one_reconnect() -> None:
    ended: list[bool] = []

    async def answers_once(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number > 1:
            await peer.until_gone()

    async with serving(answers_once) as server:
        connection = connect(server, on_idle_close=lambda: ended.append(True))
        await connection.get("/", 5.0)
        await eventually(lambda: ended)
        assert not is_open(connection)
        assert (await connection.get("/", 5.0)).body == b"a 1\n"
        assert (server.connections, ended) == (2, [True])
        await connection.aclose()
        assert ended == [True]  # closing it ourselves is no news


async def test_a_connection_closed_in_the_moment_of_asking_costs_no_error() -> None:
    async def hangs_up_on_the_second_request(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with serving(hangs_up_on_the_second_request) as server:
        connection = connect(server)
        for number in (1, 2, 3):
            assert (await connection.get("/", 5.0)).body == b"a 1\n"
            assert server.connections == number
        await connection.aclose()


async def test_bytes_nobody_asked_for_end_the_connection() -> None:
    async with serving(answering(OK + OK)) as server:
        connection = connect(server)
        assert (await connection.get("/", 5.0)).body == b"a 1\n"
        assert not is_open(connection)
        assert (await connection.get("/", 5.0)).body == b"a 1\n"
        await connection.aclose()


async def test_a_cancelled_request_leaves_nothing_open() -> None:
    async with serving(says_nothing) as server:
        connection = connect(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.get("/", 30.0)
        assert not is_open(connection)
        await connection.aclose()


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and engine.test, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine.test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("engine.test"), x509.IPAddress(ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("name", ["", "engine.test"])
async def test_tls_with_the_certificates_authority(certificate: Path, name: str) -> None:
    async with serving(answering(OK), tls=server_side(certificate)) as server:
        context = ssl.create_default_context(cafile=certificate)
        connection = Connection(Server(host="127.0.0.1", port=server.port, tls=context, server_name=name))
        for _ in range(2):
            assert (await connection.get("/", 5.0)).body == b"a 1\n"
        assert server.connections == 1
        await connection.aclose()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "name, trusted, words",
    [
        pytest.param("other.test", True, "Hostname mismatch|other.test", id="wrong-name"),
        pytest.param("engine.test", False, "self-signed|self signed", id="unknown-authority"),
    ],
)
async def test_tls_that_cannot_be_trusted(certificate: Path, name: str, trusted: bool, words: str) -> None:
    async with serving(answering(OK), tls=server_side(certificate)) as server:
        context = ssl.create_default_context(cafile=certificate if trusted else None)
        connection = Connection(Server(host="127.0.0.1", port=server.port, tls=context, server_name=name))
        with pytest.raises(FetchError, match=words) as failure:
            await connection.get("/", 5.0)
        assert failure.value.kind is Failure.TLS


async def test_tls_with_a_server_that_does_not_speak_it() -> None:
    async def answers_anything(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.until_gone()

    async with serving(answers_anything) as server:
        context = ssl.create_default_context()
        connection = Connection(Server(host="127.0.0.1", port=server.port, tls=context))
        with pytest.raises(FetchError) as failure:
            await connection.get("/", 5.0)
        assert failure.value.kind is Failure.TLS


async def test_a_server_that_wants_tls_and_is_asked_without(certificate: Path) -> None:
    async with serving(answering(OK), tls=server_side(certificate)) as server:
        with pytest.raises(FetchError) as failure:
            await connect(server).get("/", 5.0)
        assert failure.value.kind in (Failure.NOT_HTTP, Failure.CLOSED)


# --- the other loop, and every cut


@pytest.mark.parametrize(
    "serve, kind",
    [
        pytest.param(hangs_up, Failure.CLOSED, id="hangs-up"),
        pytest.param(resets, Failure.CLOSED, id="resets"),
        pytest.param(says_nothing, Failure.TIMEOUT, id="never-answers"),
        pytest.param(floods, Failure.TOO_LARGE, id="sends-100-mb"),
    ],
)
def test_failures_are_the_same_on_uvloop(serve: Serve, kind: Failure) -> None:
    async def scenario() -> None:
        async with serving(serve) as server:
            connection = connect(server)
            with pytest.raises(FetchError) as failure:
                await connection.get("/", 0.3 if kind is Failure.TIMEOUT else 10.0)
            assert failure.value.kind is kind
            await connection.aclose()

    uvloop.run(scenario())


class _FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


RAW = st.sampled_from(
    [
        OK,
        OK + b"surplus",
        OK.replace(b"4", b"400000000"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\na 1\n",
        b"nonsense\r\n\r\n",
    ]
) | st.binary(max_size=60)


async def receive(pieces: list[bytes]) -> Response | Failure:
    protocol = _Protocol(asyncio.get_running_loop(), 1000, None, 5.0)
    protocol.connection_made(_FakeTransport())
    asking = asyncio.gather(protocol.ask(b"", asyncio.get_running_loop().time() + 5), return_exceptions=True)
    await asyncio.sleep(0)
    for piece in pieces:
        protocol.data_received(piece)
    protocol.connection_lost(None)
    (result,) = await asking
    if isinstance(result, FetchError):
        return result.kind
    assert isinstance(result, Response)
    return result


@given(raw=RAW, cuts=st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=150, deadline=None)
def test_how_an_answer_is_cut_does_not_change_it(raw: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(places) if a < b]

    async def both() -> tuple[Response | Failure, Response | Failure]:
        return await receive([raw] if raw else []), await receive(pieces)

    whole, cut = asyncio.run(both())
    assert whole == cut
