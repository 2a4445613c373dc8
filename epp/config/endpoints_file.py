"""The list of servers in a file: upstream's ``file-discovery`` format, and what it lacks.

Place:   read by epp.runtime.discovery, which resolves names and follows the file.
Ignores: whether a server is there.
Rule:    one wrong entry makes the whole file wrong: a half list would silently move its load. Upstream
         skips such an entry.
Source:  llm-d-router ``file-discovery``: name, namespace, address, port, labels; the rest is ours.

    endpoints:
    - {name: gpu-0, address: 10.0.0.11, port: "8000", labels: {llm-d.ai/role: decode}}
    - {name: studio, address: studio.local, port: 8080, engine: llamacpp, apiKeyFile: studio.key, tier: 1}
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from epp.config.decode import WORD, Section, is_word, parse, read
from epp.core.addresses import MetricsUrl, read_host, read_metrics_url, read_port
from epp.core.suggestions import suggestion

Written = TypeVar("Written")
Read = TypeVar("Read")

TIER_LABEL = "fleet-epp.dev/tier"
"""The label that says what ``tier`` says, as it does on a pod."""
LAST_TIER = 999


def read_tier(label: str) -> int | None:
    """The tier that ``label`` says; None: it says none."""
    return int(label) if re.fullmatch(r"\d{1,3}", label, re.ASCII) else None


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
    metrics_url: MetricsUrl | None = None
    api_key_file: str | None = None
    """As written; relative to the directory of the list."""
    ca_file: str | None = None
    """As ``api_key_file``."""
    tier: int = 0
    """0 is to be used first."""


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
    tier: int | None = None

    def __post_init__(self) -> None:
        for subject, text in (("name", self.name), ("namespace", self.namespace)):
            if not is_word(text):
                raise ValueError(f"{subject}: must be {WORD}")
        if not self.name:
            raise ValueError("name: must not be empty")
        _named("address", read_host, self.address)
        _named("port", read_port, self.port)
        if self.metrics_url is not None:
            _named("metricsURL", read_metrics_url, self.metrics_url)
        if self.ca_file and self.scheme == "http":
            raise ValueError('caFile: has no use without "scheme: https"')
        if self.ca_file == "" or self.api_key_file == "":
            subject = "caFile" if self.ca_file == "" else "apiKeyFile"
            raise ValueError(f"{subject}: must not be empty, leave it out")
        self._check_tier()

    def _check_tier(self) -> None:
        label = self.labels.get(TIER_LABEL)
        if self.tier is not None and not 0 <= self.tier <= LAST_TIER:
            raise ValueError(f"tier: must be from 0 (used first) to {LAST_TIER}, got {self.tier}")
        if label is not None and read_tier(label) is None:
            raise ValueError(f'labels: {TIER_LABEL} must be from "0" to "{LAST_TIER}", got "{label[:20]}"')
        if label is not None and self.tier not in {None, read_tier(label)}:
            raise ValueError(
                f"tier: is {self.tier}, but the label {TIER_LABEL} says {label}; keep one of them"
            )

    def entry(self, default_namespace: str) -> EndpointEntry:
        address, is_literal = read_host(self.address)
        return EndpointEntry(
            name=self.name,
            namespace=self.namespace or default_namespace,
            address=address,
            port=read_port(self.port),
            is_literal=is_literal,
            labels=self.labels,
            engine=self.engine,
            scheme=self.scheme,
            metrics_url=None if self.metrics_url is None else read_metrics_url(self.metrics_url),
            api_key_file=self.api_key_file,
            ca_file=self.ca_file,
            tier=self.tier or read_tier(self.labels.get(TIER_LABEL, "0")) or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    endpoints: tuple[Section, ...]


def parse_endpoints(
    text: str,
    file: str,
    *,
    default_namespace: str = "default",
    engines: Collection[str] = (),
    check_ca_file: Callable[[str], object] = str,
) -> tuple[EndpointEntry, ...]:
    """All entries, in their order; ConfigError names the first thing that is wrong.

    ``engines``: the names that ``engine`` may have; empty: any. ``check_ca_file``: is given each ``caFile``
    as it is written, and raises ValueError with what is wrong with that file.
    """
    found: dict[tuple[str, str], tuple[EndpointEntry, int]] = {}
    root = parse(text, file)
    if {"apiVersion", "kind"} <= root.fields().keys():
        raise root.error("is a configuration, not a list of servers: give it as --config-file")
    for item in read(root, _Document).endpoints:
        entry = read(item, _Written).entry(default_namespace)
        if entry.engine is not None and engines and entry.engine not in engines:
            hint = suggestion(entry.engine, engines) or f", known are {', '.join(sorted(engines))}"
            raise item.at("engine").error(f'unknown engine "{entry.engine}"{hint}')
        if entry.ca_file is not None:
            try:
                check_ca_file(entry.ca_file)
            except ValueError as fault:
                raise item.at("caFile").error(str(fault)) from None
        key = (entry.namespace, entry.name)
        if key in found:
            first = found[key][1]
            raise item.at("name").error(
                f'"{entry.name}" is there twice in namespace "{entry.namespace}", first in line {first}'
            )
        found[key] = (entry, item.node.start_mark.line + 1)
    return tuple(entry for entry, _ in found.values())


def _named(subject: str, reader: Callable[[Written], Read], written: Written) -> Read:
    """What ``reader`` makes of it; its complaint with the field's name."""
    try:
        return reader(written)
    except ValueError as error:
        raise ValueError(f"{subject}: {error}") from None
