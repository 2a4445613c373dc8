"""A ModelRouter's external backend as a server that is asked as it stands.

Rule:    a path of the URL comes before what the client asks for, as in LLMKube's proxy; ``/v1`` is added
         where it does not end in a version. Nothing is taken for local because nobody said otherwise.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from epp.compiler.confidential import has_login, is_key, shown
from epp.compiler.findings import Origin
from epp.compiler.inputs.llmkube.objects import External
from epp.compiler.intent import Schema, Upstream
from epp.core.addresses import read_host, read_target


@dataclass(frozen=True, slots=True)
class _Provider:
    schema: Schema
    url: str = ""
    """Where it is if nobody says; empty: that depends on the account."""
    example: str = ""


_PROVIDERS = {
    "openai": _Provider(Schema.OPENAI, "https://api.openai.com"),
    "anthropic": _Provider(Schema.ANTHROPIC, "https://api.anthropic.com"),
    "litellm": _Provider(Schema.OPENAI, example="http://litellm.llm.svc:4000"),
    "bedrock": _Provider(Schema.BEDROCK, example="https://bedrock-runtime.eu-central-1.amazonaws.com"),
    "vertex_ai": _Provider(Schema.VERTEX, example="https://europe-west4-aiplatform.googleapis.com"),
}
_REGIONS = {
    Schema.BEDROCK: re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    Schema.VERTEX: re.compile(r"([a-z0-9-]+)-aiplatform\.googleapis\.com"),
}
_VERSION = re.compile(r".*/v\d+[a-z0-9]*")
_PRIVATE = ("svc", "cluster.local", "local", "internal", "lan", "home.arpa", "localhost")


class Unusable(ValueError):
    """Not to be asked as it is written. ``fix``: what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def upstream(external: External, origin: Origin) -> Upstream:
    """Whom to ask. Unusable when that cannot be told."""
    provider = _PROVIDERS[external.provider]
    url = (external.url or "").strip() or provider.url
    if not url:
        raise Unusable(
            f"provider {external.provider} has no url, and none that is the same for everybody",
            f"write url: {provider.example}",
        )
    parts = _split(url)
    secret = external.credentials_secret_ref.name if external.credentials_secret_ref else ""
    if is_key(secret):
        raise Unusable(
            "the name in credentialsSecretRef looks like a key, which everybody can read",
            "put the key into a Secret and name that in credentialsSecretRef",
        )
    tls = parts.scheme == "https"
    host, port = _host(parts, url), _port(parts, url)
    return Upstream(
        host=host,
        port=port or (443 if tls else 80),
        origin=origin,
        tls=tls,
        schema=provider.schema,
        prefix=_prefix(parts.path, url),
        secret=secret,
        region=_region(provider.schema, host),
    )


def is_private(host: str) -> bool:
    """By the look of it inside the site: an address of no public network, a name of the cluster."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or any(host.endswith(f".{end}") for end in _PRIVATE)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # which repeats what it cannot read
        raise _unusable(url, "it is no URL") from None
    if parts.scheme not in {"http", "https"}:
        raise _unusable(url, "it is neither http:// nor https://")
    if has_login(url):
        raise Unusable(
            f"url of {parts.hostname} has a password in it, which everybody can read",
            "put it into a Secret and name that in credentialsSecretRef",
        )
    if parts.query or parts.fragment:
        raise _unusable(url, "it has a query, which gateways do not add")
    return parts


def _host(parts: SplitResult, url: str) -> str:
    try:
        return read_host(parts.hostname or "")[0]
    except ValueError as fault:
        raise _unusable(url, f"its host {fault}") from None


def _port(parts: SplitResult, url: str) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _unusable(url, "its port must be from 1 to 65535")
    return port


def _prefix(path: str, url: str) -> str:
    bare = re.sub(r"/{2,}", "/", path).rstrip("/")
    try:
        whole = read_target(bare if _VERSION.fullmatch(bare) else f"{bare}/v1")
    except ValueError as fault:
        raise _unusable(url, f"its path {fault}") from None
    return whole


def _unusable(url: str, why: str) -> Unusable:
    return Unusable(f"url {shown(url)!r}: {why}", "write it as https://host:port/path")


def _region(schema: Schema, host: str) -> str:
    pattern = _REGIONS.get(schema)
    found = pattern.fullmatch(host) if pattern else None
    return found[1] if found else ""
