"""What peers of a port do wrong, told in the log so that their operator can mend it.

Place:   used by epp.runtime.fast.server.
Rule:    each reason at most once a minute, with the number of those that were left out: a scanner must not
         fill the log, nor hide what keeps the real gateway away.
"""

import logging
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger("epp.server")

EVERY_SECONDS = 60.0
_REASONS = 100
"""How many reasons are kept apart."""
_TLS_HELLO = b"\x16\x03"
_HTTP1 = re.compile(rb"[A-Z]{3,7} [/*]")
_UNTRUSTED = (
    "the peer does not trust our certificate: turn verification off there, or give one with --cert-path"
)
_PLAINTEXT = "plaintext on a TLS port: turn TLS on at the gateway, or start with --secure-serving=false"
_TOO_OLD = "the peer's TLS version is too old: see --tls-min-version"
_TLS_REASONS = {
    "HTTP_REQUEST": _PLAINTEXT,
    "WRONG_VERSION_NUMBER": _PLAINTEXT,
    "TLSV1_ALERT_UNKNOWN_CA": _UNTRUSTED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _UNTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _UNTRUSTED,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "VERSION_TOO_LOW": _TOO_OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _TOO_OLD,
}


class Complaints:
    """Of the port that ``flag`` names. ``clock`` [s, monotonic]."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.flag, self.port = "", 0
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how many were left out since

    def tell(self, event: str, reason: str, peer: Any) -> None:
        """Log it, unless it was told a moment ago."""
        now = self._clock()
        told_at, left_out = self._told.get((event, reason), (-EVERY_SECONDS, 0))
        if now - told_at < EVERY_SECONDS:
            self._told[event, reason] = told_at, left_out + 1
            return
        if len(self._told) >= _REASONS:
            self._told.clear()
        self._told[event, reason] = now, 0
        more = {"left_out": left_out} if left_out else {}
        fields = {"reason": reason, "port": self.port, "peer": address(peer), **more}
        logger.warning(event, extra={"fields": fields})

    def fault(self, reason: str, first_bytes: bytes, peer: Any) -> None:
        """A peer broke the rules of HTTP/2; ``first_bytes``: what it began with."""
        if first_bytes.startswith(_TLS_HELLO):
            serve_it = "this port is never TLS" if "health" in self.flag else "serve it: --secure-serving"
            self.tell("TLS on a plaintext port", f"turn TLS off at the peer; {serve_it}", peer)
        elif _HTTP1.match(first_bytes) and not first_bytes.startswith(b"PRI "):
            remedy = "set http2_protocol_options for the picker's cluster at the gateway"
            self.tell("HTTP/1.1 on a gRPC port", remedy, peer)
        else:
            self.tell("connection closed for its peer's fault", reason, peer)

    def handshake(self, failure: OSError, peer: Any) -> None:
        """A TLS handshake came to nothing."""
        known = _TLS_REASONS.get(failure.reason or "") if isinstance(failure, ssl.SSLError) else None
        self.tell("TLS handshake failed", known or str(failure) or type(failure).__name__, peer)


def address(peer: Any) -> str:
    """``ip:port`` of what the socket module gives; IPv4 as such where it came in over an IPv6 socket."""
    if not isinstance(peer, Sequence) or isinstance(peer, str) or len(peer) < 2:
        return str(peer or "")
    host = str(peer[0]).removeprefix("::ffff:")
    return f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"
