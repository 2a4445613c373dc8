"""Traps of a Backend: what it points to, and how."""

import re
from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View

_INSIDE = re.compile(r"([^.]+)\.([^.]+)\.svc(\..+)?")
_NO_NAME = r"^[^.]*$|^[0-9.]+$|:"
_LOOPBACK = r"^127\.|^::1$"
_ENDPOINTS = "object.spec.?endpoints.orValue([])"


@rule(Severity.ERROR, "a Service without pods behind a host name")
def cluster_ip_behind_name(view: View) -> Iterator[Trap]:
    """A ClusterIP hides the death of a host outside the cluster: the address stays, and connects to nothing.

    kube-proxy forwards to whatever a hand-made or an agent's EndpointSlice says. When the Mac behind it is
    switched off, each attempt stalls for 60 s and outlier detection never sees a failure
    (defilantech/LLMKube#662, #704, #705, #706, #771).
    """
    for backend in view.of("Backend"):
        for endpoint in backend.spec["endpoints"]:
            host = endpoint["fqdn"]["hostname"]
            found = _INSIDE.fullmatch(host.text)
            service = view.find("Service", found[2], found[1]) if found else None
            if service is not None and _is_blind(service):
                yield Trap(
                    backend,
                    host,
                    f"is {service.title}, which has a ClusterIP and no selector: the death of the host"
                    " behind it is not seen, each attempt stalls for 60 s",
                    "list the host by address (ip), make the Service headless (clusterIP: None), or put the"
                    " host into an InferencePool",
                )


def _is_blind(service: Object) -> bool:
    spec = service.spec
    has_pods = any(spec["selector"].entries())
    return not has_pods and spec["clusterIP"].text != "None" and spec["type"].text != "ExternalName"


@rule(
    Severity.ERROR,
    "an address that Envoy Gateway does not take",
    Admission(
        "Backend",
        f"{_ENDPOINTS}.all(e, !e.?fqdn.?hostname.orValue('a.b').matches(r'{_NO_NAME}') && "
        f"!e.?ip.?address.orValue('').matches(r'{_LOOPBACK}'))",
    ),
)
def unusable_address(view: View) -> Iterator[Trap]:
    """A host name needs a dot and must be no address, and an address must not be the proxy's own machine.

    The API server accepts them; the controller refuses the Backend, and routes that lead there answer 500.
    "mac-mini" works in a browser at home, and not here.
    """
    for backend in view.of("Backend"):
        for endpoint in backend.spec["endpoints"]:
            host, address = endpoint["fqdn"]["hostname"], endpoint["ip"]["address"]
            if host.is_there and re.search(_NO_NAME, host.text):
                yield Trap(
                    backend,
                    host,
                    f'"{host.text}" is no host name of two parts: the Backend is refused',
                    "a name with a domain, as in mac-mini.home.arpa; an address goes into ip",
                )
            if re.search(_LOOPBACK, address.text):
                yield Trap(
                    backend,
                    address,
                    f"{address.text} is the proxy's own machine: the Backend is refused",
                    "the address at which the cluster reaches the host",
                )


@rule(
    Severity.ERROR,
    "TLS without anybody to trust",
    Admission(
        "Backend",
        "!has(object.spec.tls) || object.spec.tls.?insecureSkipVerify.orValue(false) || "
        "object.spec.tls.?caCertificateRefs.orValue([]).size() > 0 || "
        "object.spec.tls.?wellKnownCACertificates.orValue('') != ''",
        is_certain=False,
    ),
)
def tls_without_authority(view: View) -> Iterator[Trap]:
    """A Backend's tls needs certificates of an authority, or says that none are asked for.

    With neither the controller refuses the Backend, unless a BackendTLSPolicy says the rest.
    """
    for backend in view.of("Backend"):
        tls = backend.spec["tls"]
        trusted = (
            tls["insecureSkipVerify"].is_true
            or len(tls["caCertificateRefs"])
            or tls["wellKnownCACertificates"].text
        )
        if tls.is_there and not trusted and not _has_tls_policy(view, backend):
            yield Trap(
                backend,
                tls,
                "names no authority: the Backend is refused",
                "wellKnownCACertificates: System, or caCertificateRefs",
            )


@rule(Severity.WARNING, "plaintext to port 443")
def https_without_tls(view: View) -> Iterator[Trap]:
    """A Backend with port 443 and no TLS gets plain HTTP, and its API key with it.

    The API server and the controller accept that, and only the provider complains. A BackendTLSPolicy may say
    it as well; in files, where it may be elsewhere, this is a remark.
    """
    for backend in view.of("Backend"):
        if backend.spec["tls"].is_there or _has_tls_policy(view, backend):
            continue
        for endpoint in backend.spec["endpoints"]:
            port = endpoint["fqdn"]["port"]
            if port.number == 443:
                yield Trap(
                    backend,
                    port,
                    "is asked in plaintext: neither tls here nor a BackendTLSPolicy",
                    "tls: {wellKnownCACertificates: System}",
                    None if view.is_complete("BackendTLSPolicy", backend.namespace) else Severity.INFO,
                )


def _has_tls_policy(view: View, backend: Object) -> bool:
    return bool(view.policies("BackendTLSPolicy", ("Backend", backend.namespace, backend.name)))
