"""Certificates: what is served by default, what a directory must hold, what follows a change."""

import datetime as dt
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from epp.runtime import tls
from epp.runtime.errors import StartError
from epp.runtime.health import Readiness, health_handler
from epp.wire.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def write(directory: Path, pair: tls.KeyPair) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / tls.CERTIFICATE).write_bytes(pair.chain)
    (directory / tls.KEY).write_bytes(pair.key)
    return directory


def test_the_default_certificate_is_upstreams_with_a_cheaper_key() -> None:
    certificate = x509.load_pem_x509_certificate(tls.self_signed(NOW).chain)
    assert certificate.subject.rfc4514_string() == "O=Inference Ext"
    assert certificate.not_valid_after_utc == NOW + dt.timedelta(days=3650)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert certificate.not_valid_before_utc < NOW


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    pair = tls.self_signed(NOW)
    assert tls.load(write(tmp_path, pair), NOW) == pair


def encrypted(directory: Path) -> None:
    key = serialization.load_pem_private_key((directory / tls.KEY).read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (directory / tls.KEY).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))


@pytest.mark.parametrize(
    "damage, file, remedy",
    [
        pytest.param(
            lambda d: (d / "tls.crt").unlink(), "tls.crt", "it must hold tls.crt and tls.key", id="missing"
        ),
        pytest.param(lambda d: (d / "tls.key").unlink(), "tls.key", "No such file", id="no key"),
        pytest.param(
            lambda d: (d / "tls.crt").write_text("x"), "tls.crt", "not a PEM certificate", id="no cert"
        ),
        pytest.param(
            lambda d: (d / "tls.key").write_text("x"), "tls.key", "not a PEM private key", id="no pem key"
        ),
        pytest.param(
            lambda d: (d / "tls.key").write_bytes(tls.self_signed(NOW).key),
            "tls.crt",
            "does not belong to",
            id="another key",
        ),
        pytest.param(encrypted, "tls.key", "openssl pkey -in", id="encrypted"),
    ],
)
def test_a_pair_that_cannot_work_stops_the_start(
    tmp_path: Path, damage: Callable[[Path], object], file: str, remedy: str
) -> None:
    damage(write(tmp_path, tls.self_signed(NOW)))
    with pytest.raises(StartError) as caught:
        tls.load(tmp_path, NOW)
    message = str(caught.value)
    assert message.startswith("--cert-path: ") and str(tmp_path / file) in message
    assert remedy in message and "\n" not in message


def test_an_expired_certificate_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, tls.self_signed(NOW))
    with caplog.at_level(logging.WARNING, logger="epp.tls"):
        tls.load(tmp_path, NOW + dt.timedelta(days=4000))
    assert [record.message for record in caplog.records] == ["the certificate has expired"]


def test_a_new_pair_is_taken_and_a_bad_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = tls.self_signed(NOW), tls.self_signed(NOW)
    reloader = tls.Reloader(write(tmp_path, old), old, lambda: NOW)
    assert reloader.newer() is None
    (tmp_path / tls.CERTIFICATE).write_bytes(new.chain + b"\n")
    assert reloader.newer() is None and "does not belong to" in str(caplog.records[0].__dict__["fields"])
    (tmp_path / tls.KEY).write_bytes(new.key + b"\n")
    taken = reloader.newer()
    assert taken is not None and taken.chain == new.chain + b"\n"
    assert reloader.newer() is None


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((health_handler(Readiness()),))
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    yield port
    await server.stop(None)


async def ask(port: int, trusted: bytes) -> HealthCheckResponse:
    """One call over TLS that believes only this certificate."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(trusted)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        answer: HealthCheckResponse = await check(HealthCheckRequest(service="liveness"), timeout=10)
        return answer


async def test_grpc_serves_the_default_certificate() -> None:
    pair = tls.self_signed(NOW)
    async with serving(tls.server_credentials(pair)) as port:
        assert (await ask(port, pair.chain)).status == HealthCheckResponse.SERVING


async def test_with_reload_a_new_connection_gets_the_new_certificate(tmp_path: Path) -> None:
    old, new = tls.self_signed(NOW), tls.self_signed(NOW)
    credentials = tls.reloading_credentials(write(tmp_path, old), old, lambda: NOW)
    async with serving(credentials) as port:
        assert (await ask(port, old.chain)).status == HealthCheckResponse.SERVING
        write(tmp_path, new)
        assert (await ask(port, new.chain)).status == HealthCheckResponse.SERVING


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Both sides in memory; raises what the client would see."""
    c2s, s2c = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(s2c, c2s, server_hostname="localhost")
    theirs = server.wrap_bio(c2s, s2c, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_the_metrics_port_can_ask_for_a_client_certificate(tmp_path: Path) -> None:
    pair, friend = tls.self_signed(NOW), tls.self_signed(NOW)
    directory, friends = write(tmp_path / "server", pair), write(tmp_path / "client", friend)
    server = tls.server_context(directory, NOW, client_ca=friends / tls.CERTIFICATE)
    client = ssl.create_default_context(cafile=str(directory / tls.CERTIFICATE))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(server, client)
    handshake(tls.server_context(directory, NOW), client)


def test_a_ca_file_without_a_certificate_stops_the_start(tmp_path: Path) -> None:
    write(tmp_path, tls.self_signed(NOW))
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(StartError, match=r"--metrics-client-ca-file: .*ca holds no PEM certificate"):
        tls.server_context(tmp_path, NOW, client_ca=tmp_path / "ca")
    with pytest.raises(StartError, match="--metrics-cert-dir: cannot read"):
        tls.server_context(tmp_path / "elsewhere", NOW)
