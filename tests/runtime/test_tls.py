"""Certificates: what is served by default, what a directory must hold, what follows a change."""

import asyncio
import datetime as dt
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from epp.core.budget import Budget
from epp.runtime import tls
from epp.runtime.errors import StartError
from epp.runtime.health import HealthService, Readiness
from epp.runtime.serving import make_server
from epp.wire.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from tests.runtime.raw_server import eventually

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


def der(name: str, what: str) -> Callable[[Path], object]:
    """Replaces the file by its content in the form that OpenSSL calls DER."""

    def damage(directory: Path) -> None:
        text = (directory / name).read_bytes()
        encoding = serialization.Encoding.DER
        if what == "certificate":
            content = x509.load_pem_x509_certificate(text).public_bytes(encoding)
        else:
            key, plain = serialization.load_pem_private_key(text, None), serialization.NoEncryption()
            content = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        (directory / name).write_bytes(content)

    return damage


def weak(directory: Path) -> None:
    """A pair that fits and that OpenSSL does not serve."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + dt.timedelta(days=9))
    certificate = builder.sign(key, hashes.SHA256())
    (directory / tls.CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / tls.KEY).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


def encrypted(directory: Path) -> None:
    key = serialization.load_pem_private_key((directory / tls.KEY).read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (directory / tls.KEY).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))


@pytest.mark.parametrize(
    "damage, file, remedy",
    [
        pytest.param(
            lambda d: (d / "tls.crt").unlink(),
            "tls.crt",
            "(No such file or directory): check the path; the directory must hold tls.crt and tls.key",
            id="missing",
        ),
        pytest.param(
            lambda d: ((d / "tls.key").unlink(), os.mkfifo(d / "tls.key")), "tls.key", "is a pipe", id="pipe"
        ),
        pytest.param(lambda d: (d / "tls.key").unlink(), "tls.key", "No such file", id="no key"),
        pytest.param(
            lambda d: (d / "tls.crt").write_text("x"),
            "tls.crt",
            "is not a PEM certificate: it must have a whole block that begins with -----BEGIN CERTIFICATE",
            id="no cert",
        ),
        pytest.param(
            lambda d: (d / "tls.key").write_text("x"),
            "tls.key",
            "is not a PEM private key: it must have a whole block that begins with -----BEGIN PRIVATE KEY",
            id="no pem key",
        ),
        pytest.param(
            der("tls.crt", "certificate"),
            "tls.crt",
            "but DER: convert it with: openssl x509 -inform der -in /",
            id="der",
        ),
        pytest.param(
            der("tls.key", "key"),
            "tls.key",
            "but DER: convert it with: openssl pkey -inform der -in /",
            id="der key",
        ),
        pytest.param(weak, "tls.key", "that OpenSSL does not serve (EE_KEY_TOO_SMALL): make a", id="weak"),
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


@pytest.mark.parametrize(
    "days, message", [(4000, "the certificate has expired"), (-1, "the certificate is not valid yet")]
)
def test_a_certificate_out_of_its_time_is_served_with_a_warning(
    days: int, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, tls.self_signed(NOW))
    with caplog.at_level(logging.WARNING, logger="epp.tls"):
        tls.load(tmp_path, NOW + dt.timedelta(days=days))
    assert [record.message for record in caplog.records] == [message]


@asynccontextmanager
async def followed(directory: Path, *, follow: bool = True) -> AsyncIterator[tls.Certificates]:
    """A directory that is looked at a thousand times a second."""
    certificates = tls.Certificates(directory, today=lambda: NOW, follow=follow, poll_interval=0.001)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(certificates.run())
        yield certificates
        task.cancel()


async def test_a_new_pair_is_taken_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tls.self_signed(NOW), tls.self_signed(NOW)
    async with followed(write(tmp_path, old)) as certificates:
        assert certificates.current() == old
        (tmp_path / tls.CERTIFICATE).write_bytes(new.chain)
        await eventually(lambda: caplog.records)
        assert "does not belong to" in str(caplog.records[0].__dict__["fields"])
        assert certificates.current() == old
        assert "does not belong to" in certificates.error
        (tmp_path / tls.KEY).write_bytes(new.key)
        await eventually(lambda: certificates.current() == new)
        assert certificates.error == ""


async def test_a_pair_that_is_not_followed_is_read_again_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new, told = tls.self_signed(NOW), tls.self_signed(NOW), list[tls.KeyPair]()
    with caplog.at_level(logging.INFO, logger="epp.tls"):
        async with followed(write(tmp_path, old), follow=False) as certificates:
            certificates.on_change = told.append
            certificates.reread()
            await eventually(lambda: len(caplog.records) == 1)
            assert told == []
            write(tmp_path, new)
            certificates.reread()
            await eventually(lambda: told == [new])
            assert certificates.current() == new
    assert {record.message for record in caplog.records} == {"certificate reloaded"}


@asynccontextmanager
async def serving(driver: str, pairs: Callable[[], tls.KeyPair]) -> AsyncIterator[int]:
    server = make_server(driver, HealthService(Readiness()).services(), budget=Budget(1 << 20), pairs=pairs)
    port = server.bind(0, flag="grpc-port")
    await server.start()
    yield port
    await server.stop(0)


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


@pytest.mark.parametrize("driver", ["fast", "grpcio"])
async def test_grpc_serves_the_default_certificate(driver: str) -> None:
    pair = tls.self_signed(NOW)
    async with serving(driver, lambda: pair) as port:
        assert (await ask(port, pair.chain)).status == HealthCheckResponse.SERVING


@pytest.mark.parametrize("driver", ["fast", "grpcio"])
async def test_with_reload_a_new_connection_gets_the_new_certificate(tmp_path: Path, driver: str) -> None:
    old, new = tls.self_signed(NOW), tls.self_signed(NOW)
    async with (
        followed(write(tmp_path, old)) as certificates,
        serving(driver, certificates.current) as port,
    ):
        assert (await ask(port, old.chain)).status == HealthCheckResponse.SERVING
        write(tmp_path, new)
        await eventually(lambda: certificates.current() == new)
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
    server = tls.pages_context(pair, friends / tls.CERTIFICATE)
    client = ssl.create_default_context(cafile=str(directory / tls.CERTIFICATE))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(server, client)
    handshake(tls.pages_context(pair, None), client)


def test_a_context_shows_another_pair_from_now_on(tmp_path: Path) -> None:
    old, new = tls.self_signed(NOW), tls.self_signed(NOW)
    context = tls.pages_context(old, None)
    tls.use(context, new)
    handshake(context, ssl.create_default_context(cadata=new.chain.decode()))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, ssl.create_default_context(cadata=old.chain.decode()))


@pytest.mark.parametrize("oldest, refused", [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)])
def test_an_old_version_of_tls_is_refused_when_told_so(oldest: ssl.TLSVersion, refused: bool) -> None:
    pair = replace(tls.self_signed(NOW), oldest=oldest)
    client = ssl.create_default_context(cadata=pair.chain.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    for server in (tls.context_of(pair), tls.pages_context(pair, None)):
        if refused:
            with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION"):
                handshake(server, client)
        else:
            handshake(server, client)


@pytest.mark.parametrize(
    "spoken, refused", [("ECDHE-ECDSA-AES128-SHA", False), ("ECDHE-ECDSA-AES256-SHA", True)]
)
def test_only_the_cipher_suites_that_were_named_are_spoken(spoken: str, refused: bool) -> None:
    pair = replace(tls.self_signed(NOW), ciphers="ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")
    client = ssl.create_default_context(cadata=pair.chain.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(spoken)
    for server in (tls.context_of(pair), tls.pages_context(pair, None)):
        if refused:
            with pytest.raises(ssl.SSLError, match=r"NO_SHARED_CIPHER|HANDSHAKE_FAILURE"):
                handshake(server, client)
        else:
            handshake(server, client)


def test_a_key_is_written_to_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Containers may have no directory to write to."""
    monkeypatch.setattr(tls.tempfile, "tempdir", str(tmp_path / "nowhere"))
    tls.context_of(tls.self_signed(NOW))


@pytest.mark.parametrize(
    "make, message",
    [
        pytest.param(
            lambda ca: None, "ca cannot be read (No such file or directory): check the path", id="missing"
        ),
        pytest.param(Path.mkdir, "ca is a directory: give a file", id="directory"),
        pytest.param(
            lambda ca: ca.write_text("nothing"),
            "ca is not a PEM certificate: it must have a whole block that begins",
            id="no-pem",
        ),
        pytest.param(lambda ca: ca.write_text(""), "ca is not a PEM certificate: it must", id="empty"),
        pytest.param(lambda ca: ca.write_text("caf\xe9"), "ca is not a PEM certificate: it must", id="words"),
        pytest.param(
            lambda ca: ca.write_bytes(b"\x30\x82\xff"),
            "ca is not a PEM certificate but DER: convert it with: openssl x509 -inform der",
            id="der",
        ),
    ],
)
def test_a_ca_file_without_a_certificate_stops_the_start(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "ca")
    with pytest.raises(StartError) as caught:
        tls.pages_context(tls.self_signed(NOW), tmp_path / "ca")
    assert str(caught.value).startswith(f"--metrics-client-ca-file: {tmp_path}/{message}")


def test_the_flag_that_names_a_directory_is_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^--metrics-cert-dir: .*tls\.crt cannot be read"):
        tls.Certificates(tmp_path / "elsewhere", flag="metrics-cert-dir", today=lambda: NOW)
