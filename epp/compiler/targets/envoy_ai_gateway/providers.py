"""How a server is spoken to: whose API, with which key, over TLS or not.

Place:   beside backends.py, for each server that is asked without a picker.
Rule:    the Secret is in the namespace of the route: Envoy AI Gateway looks nowhere else, whatever a
         reference says. Its key is apiKey; that of AWS is credentials, a file as the aws command reads it.
"""

from collections.abc import Iterator
from ipaddress import ip_address

from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, Origin, info, warning
from epp.compiler.intent import Pool, Rule, Schema, Servers, Upstream
from epp.compiler.targets.envoy_ai_gateway.refused import Refused

API = "aigateway.envoyproxy.io/v1beta1"
AZURE_API_VERSION = "2025-01-01-preview"
"""Without one Azure answers 404; this has chat completions, tools and streaming with usage."""

_SPOKEN = (
    "ask it in OpenAI's words, which Anthropic understands at https://api.anthropic.com/v1: provider openai,"
    " with that url"
)
_KEYS = {
    Schema.OPENAI: ("APIKey", "apiKey"),
    Schema.COHERE: ("APIKey", "apiKey"),
    Schema.ANTHROPIC: ("AnthropicAPIKey", "anthropicAPIKey"),
    Schema.AZURE: ("AzureAPIKey", "azureAPIKey"),
}


def schema(servers: Servers) -> Object:
    """Of an AIServiceBackend. Engines of a pool speak OpenAI's API."""
    if isinstance(servers, Pool):
        return {"name": str(Schema.OPENAI), "prefix": "/v1"}
    match servers.schema:
        case Schema.OPENAI | Schema.ANTHROPIC:
            return {"name": str(servers.schema), "prefix": servers.prefix}
        case Schema.AZURE:
            return {"name": str(servers.schema), "version": AZURE_API_VERSION}
        case _:
            return {"name": str(servers.schema)}


def policies(name: str, namespace: str, servers: Servers, sources: tuple[Origin, ...]) -> list[Emitted]:
    """Key and TLS of the backend ``name``. Refused: there is not enough to make them."""
    if isinstance(servers, Pool):
        return []
    found = []
    if servers.tls:
        found.append(_tls(name, namespace, servers, sources))
    credentials = _credentials(servers)
    if credentials:
        target = {"group": "aigateway.envoyproxy.io", "kind": "AIServiceBackend", "name": name}
        spec = {"targetRefs": [target], **credentials}
        found.append(made(API, "BackendSecurityPolicy", namespace, name, *sources, spec=spec))
    return found


def _tls(name: str, namespace: str, upstream: Upstream, sources: tuple[Origin, ...]) -> Emitted:
    if is_address(upstream.host):
        raise Refused(
            "InvalidHost",
            upstream.origin,
            f"TLS to {upstream.host}: certificates are verified against a name",
            "name the host as its certificate does, or ask it without TLS",
        )
    spec = {
        "targetRefs": [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": name}],
        "validation": {"hostname": upstream.host, "wellKnownCACertificates": "System"},
    }
    return made("gateway.networking.k8s.io/v1", "BackendTLSPolicy", namespace, name, *sources, spec=spec)


def _credentials(upstream: Upstream) -> Object:
    secret = {"secretRef": {"name": upstream.secret}}
    if upstream.schema is Schema.VERTEX:
        raise Refused(
            "UnsupportedProvider",
            upstream.origin,
            "Vertex AI is asked with the name of a Google Cloud project, which nothing here says",
            "use Vertex AI's OpenAI-compatible address as an OpenAI backend, or write its AIServiceBackend"
            " and"
            " BackendSecurityPolicy by hand",
        )
    if upstream.schema is Schema.BEDROCK:
        if not upstream.region:
            raise Refused(
                "UnsupportedProvider",
                upstream.origin,
                "Bedrock is asked in a region, and none is named",
                "name the region",
            )
        file = {"credentialsFile": secret} if upstream.secret else {}
        return {"type": "AWSCredentials", "awsCredentials": {"region": upstream.region, **file}}
    if not upstream.secret:
        return {}
    kind, field = _KEYS[upstream.schema]
    return {"type": kind, field: secret}


# --- what is told --------------------------------------------------------------------------------------


def told(rule: Rule) -> Iterator[Finding]:
    """Of the servers that a rule asks without a picker. Refused: they cannot stand beside each other."""
    asked = [(one, one.servers) for one in rule.backends if isinstance(one.servers, Upstream)]
    native = [(one, servers) for one, servers in asked if servers.schema is Schema.ANTHROPIC]
    for backend, servers in native:
        why = (
            f"{servers.host} is asked as Anthropic's API, and to that neither 0.7 nor 1.1 translates"
            " /v1/chat/completions: it gets 500"
        )
        if len(native) < len(rule.backends):
            why = f"rule {rule.name}, backend {backend.name}: {why}, whoever is next"
            raise Refused("UnsupportedProvider", rule.origin, why, _SPOKEN)
        yield warning("MessagesOnly", backend.origin, f"{why}; /anthropic/v1/messages is answered", _SPOKEN)
    for backend, servers in asked:
        if servers.secret:
            key = "credentials" if servers.schema is Schema.BEDROCK else "apiKey"
            message = f"Envoy AI Gateway reads {key} of Secret {servers.secret}, in the router's namespace"
            yield info("SecretKeys", backend.origin, message, f"name the key {key} there")


def is_address(host: str) -> bool:
    """An IP address, of no certain link."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host
