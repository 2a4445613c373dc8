"""Certificates: self-signed by default, from a directory when told so, and what gRPC makes of them.

Place:   asked by main before a port is opened.
Rule:    a certificate that cannot work stops the start with one line that names the file and the
         remedy; once serving, a bad new pair on disk leaves the good old one in use.
Source:  upstream's self-signed certificate: O="Inference Ext", ten years; gateways do not verify it.
"""

import datetime as dt
import ipaddress
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from epp.runtime.errors import StartError

logger = logging.getLogger("epp.tls")

CERTIFICATE = "tls.crt"
KEY = "tls.key"
_TEN_YEARS = dt.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain and its private key, both PEM; whoever opens the port decides what for."""

    chain: bytes
    key: bytes
    expires: dt.datetime


def self_signed(now: dt.datetime, host_names: tuple[str, ...] = ("localhost",)) -> KeyPair:
    """A new key pair that nobody vouches for. P-256: a millisecond, where RSA-4096 takes seconds."""
    # cryptography takes 90 ms to import: only who needs it pays
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, "Inference Ext")])
    alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in host_names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    expires = now + _TEN_YEARS
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # clocks differ
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        expires,
    )


def load(directory: Path, now: dt.datetime, *, flag: str = "cert-path") -> KeyPair:
    """The pair of ``directory``, known to fit together; StartError says what is wrong with it."""
    from cryptography import x509  # noqa: PLC0415 (as above)
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    chain_file, key_file = directory / CERTIFICATE, directory / KEY
    chain, key_text = _read(chain_file, flag), _read(key_file, flag)
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as fault:
        raise StartError(f"--{flag}: {chain_file} is not a PEM certificate: {fault}") from fault
    try:
        key = serialization.load_pem_private_key(key_text, password=None)
    except TypeError as fault:  # what the library raises for a key that wants a password
        remedy = f"decrypt it with: openssl pkey -in {key_file}"
        raise StartError(f"--{flag}: {key_file} is encrypted; {remedy}") from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise StartError(f"--{flag}: {key_file} is not a PEM private key: {fault}") from fault
    leaf = certificates[0]
    if leaf.public_key() != key.public_key():
        raise StartError(
            f"--{flag}: {chain_file} does not belong to {key_file}: give the key that the first certificate"
            " of the file was made for"
        )
    if leaf.not_valid_after_utc < now:
        logger.warning(
            "the certificate has expired",
            extra={"fields": {"file": str(chain_file), "expired": leaf.not_valid_after_utc.isoformat()}},
        )
    return KeyPair(chain, key_text, leaf.not_valid_after_utc)


def _read(file: Path, flag: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise StartError(
            f"--{flag}: cannot read {file} ({fault.strerror}): it must hold {CERTIFICATE} and {KEY}"
        ) from fault


def server_credentials(pair: KeyPair) -> grpc.ServerCredentials:
    """For a grpc server. ALPN h2 and TLS 1.2 or newer are gRPC's own."""
    return grpc.ssl_server_credentials([(pair.key, pair.chain)])


def reloading_credentials(
    directory: Path, pair: KeyPair, today: Callable[[], dt.datetime]
) -> grpc.ServerCredentials:
    """The same, following the files: each new connection gets what is there (two stat calls)."""
    reloader = Reloader(directory, pair, today)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        newer = reloader.newer()
        return None if newer is None else _configuration(newer)

    return grpc.dynamic_ssl_server_credentials(_configuration(pair), fetch)  # type: ignore[arg-type] # None is fine


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


class Reloader:
    """Notices that a pair on disk has changed, and takes it only if it is good."""

    def __init__(self, directory: Path, pair: KeyPair, today: Callable[[], dt.datetime]) -> None:
        self._directory = directory
        self._pair = pair
        self._today = today
        self._seen = self._signature()

    def newer(self) -> KeyPair | None:
        """The pair, if it is good and another one than before."""
        signature = self._signature()
        if signature == self._seen:
            return None
        self._seen = signature
        try:
            pair = load(self._directory, self._today())
        except StartError as fault:  # half-written, mostly: the next change is looked at again
            logger.error("the new certificate is not used", extra={"fields": {"error": str(fault)}})  # noqa: TRY400
            return None
        if pair == self._pair:
            return None
        self._pair = pair
        logger.info("certificate reloaded", extra={"fields": {"expires": pair.expires.isoformat()}})
        return pair

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(self._directory / name) for name in (CERTIFICATE, KEY))


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116 (follows the links by which Kubernetes swaps a mounted Secret)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def server_context(
    directory: Path, now: dt.datetime, *, client_ca: Path | None = None, flag: str = "metrics-cert-dir"
) -> ssl.SSLContext:
    """For an HTTP server; with ``client_ca`` only clients whose certificate it signed are served."""
    load(directory, now, flag=flag)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as fault:  # ssl.SSLError is one
            reason = fault.strerror or fault
            raise StartError(
                f"--metrics-client-ca-file: {client_ca} holds no PEM certificate: {reason}"
            ) from fault
        context.verify_mode = ssl.CERT_REQUIRED
    return context
