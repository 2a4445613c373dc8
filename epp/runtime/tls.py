"""Certificates: self-signed by default, from a directory when told so.

Place:   asked by main before a port is opened; ``Certificates.run`` runs as long as the process.
Rule:    a certificate that cannot work stops the start with one line that names the file and the
         remedy; once serving, a bad new pair on disk leaves the good old one in use, and no connection
         waits for a disk.
Source:  upstream's self-signed certificate: O="Inference Ext", ten years; gateways do not verify it.
"""

import asyncio
import datetime as dt
import ipaddress
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from epp.runtime import files
from epp.runtime.errors import StartError
from epp.runtime.files import FileFault
from epp.runtime.supervise import told_or_after

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
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    """The oldest version of TLS in which to show it. gRPC's server always takes this one."""
    ciphers: str = ""
    """What TLS 1.2 may be spoken with, as OpenSSL wants to be told; empty: its own choice."""


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
        leaf = x509.load_pem_x509_certificates(chain)[0]
        public_key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise StartError(f"--{flag}: {chain_file} {_no_certificate(chain_file, chain)}") from fault
    try:
        key = serialization.load_pem_private_key(key_text, password=None)
    except TypeError as fault:  # what the library raises for a key that wants a password
        remedy = f"decrypt it with: openssl pkey -in {key_file}"
        raise StartError(f"--{flag}: {key_file} is encrypted; {remedy}") from fault
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise StartError(f"--{flag}: {key_file} {_no_key(key_file, key_text)}") from fault
    if public_key != key.public_key():
        raise StartError(
            f"--{flag}: {chain_file} does not belong to {key_file}: give the key that the first certificate"
            " of the file was made for"
        )
    pair = KeyPair(chain, key_text, leaf.not_valid_after_utc)
    try:
        context_of(pair)
    except ssl.SSLError as fault:
        remedy = "make a new one, for example: openssl ecparam -genkey -name prime256v1"
        raise StartError(
            f"--{flag}: {key_file} is a key that OpenSSL does not serve ({fault.reason}): {remedy}"
        ) from fault
    _warn_of_dates(chain_file, leaf.not_valid_before_utc, pair.expires, now)
    return pair


def _read(file: Path, flag: str) -> bytes:
    try:
        return files.read(file)[0]
    except FileFault as fault:
        raise StartError(
            f"--{flag}: {file} {fault}; the directory must hold {CERTIFICATE} and {KEY}"
        ) from fault


_DER = b"\x30"
"""The first byte of everything in that form."""


def _no_certificate(file: Path, content: bytes) -> str:
    if content.startswith(_DER):
        return f"is not a PEM certificate but DER: convert it with: openssl x509 -inform der -in {file}"
    return "is not a PEM certificate: it must have a whole block that begins with -----BEGIN CERTIFICATE-----"


def _no_key(file: Path, content: bytes) -> str:
    if content.startswith(_DER):
        return f"is not a PEM private key but DER: convert it with: openssl pkey -inform der -in {file}"
    return "is not a PEM private key: it must have a whole block that begins with -----BEGIN PRIVATE KEY-----"


def _warn_of_dates(file: Path, begins: dt.datetime, ends: dt.datetime, now: dt.datetime) -> None:
    for is_wrong, message, name, date in (
        (ends < now, "the certificate has expired", "expired", ends),
        (now < begins, "the certificate is not valid yet", "valid_from", begins),
    ):
        if is_wrong:
            logger.warning(message, extra={"fields": {"file": str(file), name: date.isoformat()}})


# --- contexts ----------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def context_of(pair: KeyPair) -> ssl.SSLContext:
    """For a gRPC server: ALPN h2."""
    context = _server_context(pair)
    context.set_alpn_protocols(["h2"])
    return context


def pages_context(pair: KeyPair, client_ca: Path | None) -> ssl.SSLContext:
    """For an HTTP server; with ``client_ca`` only clients whose certificate it signed are served."""
    context = _server_context(pair)
    if client_ca is not None:
        subject = f"--metrics-client-ca-file: {client_ca}"
        try:
            content, _ = files.read(client_ca)
        except FileFault as fault:
            raise StartError(f"{subject} {fault}") from fault
        try:
            context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # comments
        except (ssl.SSLError, ValueError) as fault:  # ValueError: there is nothing
            raise StartError(f"{subject} {_no_certificate(client_ca, content)}") from fault
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def use(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Show ``pair`` to new connections. The ssl module reads files only."""
    with _in_memory(pair.key + b"\n" + pair.chain) as file:
        context.load_cert_chain(file)


def _server_context(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = pair.oldest
    if pair.ciphers:
        context.set_ciphers(pair.ciphers)
    use(context, pair)
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A file with this content: a key is never written to a disk, and there may be none to write to."""
    if not hasattr(os, "memfd_create"):  # only Linux has it
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    with os.fdopen(os.memfd_create("epp"), "wb", buffering=0) as memory:
        memory.write(content)
        yield f"/proc/self/fd/{memory.fileno()}"


# --- following ---------------------------------------------------------------------------------------


class Certificates:
    """The pair of a directory. ``current`` is what was there at the last look; ``run`` looks.

    ``follow``: once a second, with two stat calls. ``on_change`` (to be set) is told each new pair.
    """

    def __init__(
        self,
        directory: Path,
        *,
        today: Callable[[], dt.datetime],
        flag: str = "cert-path",
        oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        ciphers: str = "",
        follow: bool = False,
        poll_interval: float = 1.0,
    ) -> None:
        self.error = ""
        """Why the pair as it is on disk now is not in use; empty when it is."""
        self._directory = directory
        self._today = today
        self._flag = flag
        self._oldest, self._ciphers = oldest, ciphers
        self._poll_interval = poll_interval if follow else None
        self._look, self._asked_for = asyncio.Event(), False
        self._seen = self._signature()
        self._pair = self._load()
        self.on_change: Callable[[KeyPair], None] = lambda pair: None

    def current(self) -> KeyPair:
        """The pair for a new connection."""
        return self._pair

    def reread(self) -> None:
        """Take the pair as it is on disk now, followed or not."""
        self._asked_for = True
        self._look.set()

    async def run(self) -> None:
        """Follow the directory."""
        while True:
            await told_or_after(self._look, self._poll_interval)
            asked_for, self._asked_for = self._asked_for, False
            signature = await files.aside(self._signature, name="certificates")
            if asked_for or signature != self._seen:
                self._seen = signature
                await self._take_over()

    async def _take_over(self) -> None:
        try:
            pair = await files.aside(self._load, name="certificates")
        except StartError as fault:  # half-written, mostly: the next change is looked at again
            self.error = str(fault)
            logger.error("the new certificate is not used", extra={"fields": {"error": self.error}})  # noqa: TRY400
            return
        self.error = ""
        if pair != self._pair:
            self._pair = pair
            self.on_change(pair)
        fields = {"directory": str(self._directory), "expires": pair.expires.isoformat()}
        logger.info("certificate reloaded", extra={"fields": fields})

    def _load(self) -> KeyPair:
        pair = load(self._directory, self._today(), flag=self._flag)
        return replace(pair, oldest=self._oldest, ciphers=self._ciphers)

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(self._directory / name) for name in (CERTIFICATE, KEY))


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116 (follows the links by which Kubernetes swaps a mounted Secret)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
