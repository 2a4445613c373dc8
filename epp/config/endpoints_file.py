"""The list of servers in a file: upstream's ``file-discovery`` format, and what it lacks.

Place:   read by epp.runtime.discovery, which resolves names and follows the file.
Ignores: whether a server is there.
Rule:    one wrong entry makes the whole file wrong: a half list would silently move its load. Upstream
         skips such an entry.
Source:  llm-d-router ``file-discovery``: name, namespace, address, port, labels; the rest is ours.

    endpoints:
    - {name: gpu-0, address: 10.0.0.11, port: "8000", labels: {llm-d.ai/role: decode}}
    - {name: studio, address: studio.local, port: 8080, engine: llamacpp, apiKeyFile: studio.key}
"""

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from epp.config.decode import Section, parse, read, suggestion

_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_HOST_LABEL}\.)*{_HOST_LABEL}\.?", re.ASCII)
_URL = re.compile(r"https?://[^\s/]+(?:/\S*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEntry:
    """One server of the file. ``address``: a literal without brackets, or a name to be resolved."""

    name: str
    namespace: str
    address: str
    port: int
    is_literal: bool
    """``address`` is an IP address."""
    labels: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    """None: found out by looking."""
    scheme: str = "http"
    metrics_url: str | None = None
    api_key_file: str | None = None
    """As written; relative to the directory of the list."""
    ca_file: str | None = None
    """As ``api_key_file``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """An entry as it stands in the file."""

    name: str
    address: str
    port: int | str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    scheme: Literal["http", "https"] = "http"
    metrics_url: str | None = field(default=None, metadata={"yaml": "metricsURL"})
    api_key_file: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        for subject, text in (("name", self.name), ("namespace", self.namespace)):
            if not text.isprintable() or " " in text or len(text) > 253:
                raise ValueError(f"{subject}: must be one word of at most 253 characters")
        if not self.name:
            raise ValueError("name: must not be empty")
        _address(self.address)
        _port(self.port)
        if self.metrics_url is not None and not _URL.fullmatch(self.metrics_url):
            raise ValueError("metricsURL: must be a whole URL such as http://10.0.0.11:9400/metrics")
        if self.ca_file and self.scheme == "http":
            raise ValueError('caFile: has no use without "scheme: https"')
        if self.ca_file == "" or self.api_key_file == "":
            subject = "caFile" if self.ca_file == "" else "apiKeyFile"
            raise ValueError(f"{subject}: must not be empty, leave it out")

    def entry(self, default_namespace: str) -> EndpointEntry:
        address, is_literal = _address(self.address)
        return EndpointEntry(
            name=self.name,
            namespace=self.namespace or default_namespace,
            address=address,
            port=_port(self.port),
            is_literal=is_literal,
            labels=self.labels,
            engine=self.engine,
            scheme=self.scheme,
            metrics_url=self.metrics_url,
            api_key_file=self.api_key_file,
            ca_file=self.ca_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    endpoints: tuple[Section, ...]


def parse_endpoints(
    text: str, file: str, *, default_namespace: str = "default", engines: Collection[str] = ()
) -> tuple[EndpointEntry, ...]:
    """All entries, in their order; ConfigError names the first thing that is wrong.

    ``engines``: the names that ``engine`` may have; empty: any.
    """
    found: dict[tuple[str, str], tuple[EndpointEntry, int]] = {}
    for item in read(parse(text, file), _Document).endpoints:
        entry = read(item, _Written).entry(default_namespace)
        if entry.engine is not None and engines and entry.engine not in engines:
            hint = suggestion(entry.engine, engines) or f", known are {', '.join(sorted(engines))}"
            raise item.at("engine").error(f'unknown engine "{entry.engine}"{hint}')
        key = (entry.namespace, entry.name)
        if key in found:
            first = found[key][1]
            raise item.at("name").error(
                f'"{entry.name}" is there twice in namespace "{entry.namespace}", first in line {first}'
            )
        found[key] = (entry, item.node.start_mark.line + 1)
    return tuple(entry for entry, _ in found.values())


def _address(text: str) -> tuple[str, bool]:
    """The address in its usual form, and whether it is a literal one."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "://" in text:
        raise ValueError('address: is only a host; write "scheme" and "port" as fields of their own')
    if "%" in bare:
        raise ValueError("address: zones of link-local addresses are not supported")
    try:
        literal = ipaddress.ip_address(bare)
    except ValueError:
        pass
    else:
        if literal.is_unspecified or literal.is_multicast:
            raise ValueError(f"address: {text} is not the address of one server")
        return str(literal), True
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit() and ":" not in host.strip("[]"):
        raise ValueError('address: is only a host; write "port" as a field of its own')
    if not _HOST.fullmatch(text) or len(text) > 253:
        raise ValueError(f'address: "{text[:60]}" is neither an IP address nor a host name')
    if text.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"address: {text} is no IPv4 address")
    return text.rstrip(".").lower(), False


def _port(written: int | str) -> int:
    text = str(written)
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError(f"port: must be from 1 to 65535, got {text[:20]}")
    return int(text)
