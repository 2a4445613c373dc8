"""Where a router's Gateway is reached, as far as its status says."""

from collections.abc import Mapping
from typing import Any

from epp.compiler.documents import Document, Documents
from epp.compiler.intent import GatewayRef


def endpoint(gateway: GatewayRef, documents: Documents) -> str:
    """The URL for clients; empty: it has no address yet."""
    found = documents.find("Gateway", gateway.namespace, gateway.name)
    addresses = _addresses(found) if found is not None else []
    if found is None or not addresses:
        return ""
    listener = next(iter(_mappings(found.spec.get("listeners"))), {})
    scheme = "https" if listener.get("protocol") == "HTTPS" else "http"
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    port = listener.get("port")
    usual = 443 if scheme == "https" else 80
    return f"{scheme}://{host}" if port in {usual, None} else f"{scheme}://{host}:{port}"


def hosts(found: Document) -> list[str]:
    """Its addresses, then the hostnames of its listeners."""
    names = [one.get("hostname") for one in _mappings(found.spec.get("listeners"))]
    return [*_addresses(found), *(one for one in names if isinstance(one, str) and one)]


def _addresses(found: Document) -> list[str]:
    values = [one.get("value") for one in _mappings(found.status.get("addresses"))]
    return [one for one in values if isinstance(one, str) and one]


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
