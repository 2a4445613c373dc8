"""Where a server is, as people write it: hosts, ports, request targets and metrics URLs, read once.

Place:   used by epp.config.endpoints_file and ``metrics-data-source``; what comes out goes to
         epp.runtime.probe.
Ignores: name resolution, and whether anyone is there.
Rule:    what is accepted here can be given to a resolver and put into a request as it is. Everything
         else is a ValueError that says what is wrong, for whoever knows the field and the file.
"""

import ipaddress
import re
from dataclasses import dataclass

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?", re.ASCII)
_TARGET = re.compile(r"/[!\"$-~]*", re.ASCII)
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^]/?#]*\]|[^][:/?#]*)(?::(?P<port>[^/?#]*))?(?P<target>/.*)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class MetricsUrl:
    """Whom to ask for metrics, and for what."""

    scheme: str
    host: str
    """A literal address without brackets, or a name."""
    port: int
    target: str = "/metrics"
    """Path and query."""


def read_host(text: str) -> tuple[str, bool]:
    """A host in its usual form, without brackets, and whether it is a literal address."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "://" in text:
        raise ValueError('is only a host; write "scheme" and "port" as fields of their own')
    if "%" in bare:
        raise ValueError("zones of link-local addresses are not supported")
    try:
        literal = ipaddress.ip_address(bare)
    except ValueError:
        pass
    else:
        if literal.is_unspecified or literal.is_multicast:
            raise ValueError(f"{text} is not the address of one server")
        return str(literal), True
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        raise ValueError('is only a host; write "port" as a field of its own')
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise ValueError(f'"{text[:60]}" is neither an IP address nor a host name')
    if text.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"{text} is no IPv4 address")
    return text.rstrip(".").lower(), False


def read_port(written: int | str) -> int:
    """A port that one can connect to."""
    text = str(written)
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        got = f'"{text[:20]}"' if isinstance(written, str) else text[:20]
        raise ValueError(f"must be from 1 to 65535, got {got}")
    return int(text)


def read_target(text: str) -> str:
    """A path, and perhaps a query, as they stand in a request line."""
    if not text.startswith("/"):
        raise ValueError(f'must begin with "/", got "{text[:60]}"')
    if not _TARGET.fullmatch(text):
        raise ValueError('has characters that no request may have: write them as %XX, and no "#"')
    return text


def read_metrics_url(text: str) -> MetricsUrl:
    """A whole URL; without a path it means ``/metrics``."""
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ValueError("must be a whole URL such as http://10.0.0.11:9400/metrics")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError("must have no user name or password; a server's API key goes into apiKeyFile")
    host, _ = read_host(parts["host"])
    try:
        port = read_port(parts["port"]) if parts["port"] is not None else _usual_port(parts["scheme"])
    except ValueError as error:
        raise ValueError(f"its port {error}") from None
    try:
        target = read_target(parts["target"] or "/metrics")
    except ValueError as error:
        raise ValueError(f"its path {error}") from None
    return MetricsUrl(parts["scheme"], host, port, target)


def _usual_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
