"""Traps of keys, of Secrets, and of references between namespaces."""

import base64
import binascii
from collections.abc import Iterator

from epp.compiler.attachment import reference
from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View


@rule(Severity.ERROR, "a reference to another namespace that nobody allows")
def missing_reference_grant(view: View) -> Iterator[Trap]:
    """Without a ReferenceGrant beside what is referred to, the policy is invalid and its routes answer 500.

    An authorizer (extAuth) or a Secret with API keys in a namespace of its own does it for all routes of the
    policy, whose author sees only that the API server has accepted it. Secrets of apiKeyAuth in another
    namespace work from Envoy Gateway v1.8.1 on. Told as an error where the cluster or the files have what
    is referred to, otherwise as a remark.
    """
    for one in view.of("SecurityPolicy", "EnvoyExtensionPolicy", "HTTPRoute", "Gateway"):
        for node, kind in _references(one):
            ref = reference(node, one.namespace, kind=kind)
            if ref.namespace == one.namespace or not ref.name:
                continue
            if view.is_granted(one.kind, one.namespace, ref):
                continue
            certain = view.is_complete("ReferenceGrant", ref.namespace) or view.found(ref) is not None
            yield Trap(
                one,
                node["namespace"],
                f"no ReferenceGrant in {ref.namespace} lets {one.kind} of {one.namespace} name"
                f" {ref.title}: routes answer 500",
                f"a ReferenceGrant in {ref.namespace} from {one.kind} of {one.namespace} to {ref.kind}",
                None if certain else Severity.INFO,
            )


def _references(one: Object) -> Iterator[tuple[Node, str]]:
    """What it refers to, and the kind where it names none."""
    spec = one.spec
    for key in ("grpc", "http"):
        yield spec["extAuth"][key]["backendRef"], "Service"
    lists = [(spec["apiKeyAuth"]["credentialRefs"], "Secret")]
    lists += [(spec["extAuth"][key]["backendRefs"], "Service") for key in ("grpc", "http")]
    lists += [(provider["remoteJWKS"]["backendRefs"], "Service") for provider in spec["jwt"]["providers"]]
    lists += [(processor["backendRefs"], "Service") for processor in spec["extProc"]]
    lists += [(rule_of["backendRefs"], "Service") for rule_of in spec["rules"] if one.kind == "HTTPRoute"]
    lists += [(listener["tls"]["certificateRefs"], "Secret") for listener in spec["listeners"]]
    yield spec["basicAuth"]["users"], "Secret"
    yield spec["oidc"]["clientSecret"], "Secret"
    for refs, kind in lists:
        for ref in refs:
            yield ref, kind


_SECRETS = (
    "apiKey.secretRef",
    "anthropicAPIKey.secretRef",
    "azureAPIKey.secretRef",
    "azureCredentials.clientSecretRef",
    "awsCredentials.credentialsFile.secretRef",
    "gcpCredentials.credentialsFile.secretRef",
)
_HOME = "object.metadata.namespace"


@rule(
    Severity.ERROR,
    "a provider's key in another namespace",
    Admission(
        "BackendSecurityPolicy",
        " && ".join(
            f"object.spec.?{path.replace('.', '.?')}.?namespace.orValue({_HOME}) == {_HOME}"
            for path in _SECRETS
        ),
    ),
)
def secret_namespace_ignored(view: View) -> Iterator[Trap]:
    """A BackendSecurityPolicy takes its Secret from its own namespace, whatever secretRef.namespace says.

    The provider is then asked without the key, or with that of another Secret which happens to have the name.
    """
    for policy in view.of("BackendSecurityPolicy"):
        for path in _SECRETS:
            node = policy.spec
            for key in path.split("."):
                node = node[key]
            named = node["namespace"].text
            if named and named != policy.namespace:
                yield Trap(
                    policy,
                    node["namespace"],
                    f"is ignored: the Secret is looked for in {policy.namespace}",
                    f"copy the Secret to {policy.namespace} and leave the namespace out",
                )


@rule(Severity.ERROR, "one API key of two clients")
def duplicate_api_key(view: View) -> Iterator[Trap]:
    """Two clients with the same key value make a SecurityPolicy invalid, and all its routes answer 500.

    The entries of the Secrets are clients, their values keys; who copies a Secret to start a new team's
    breaks the gateway for all teams. The values are compared and never shown. Told where the Secrets are
    given.
    """
    for policy in view.of("SecurityPolicy"):
        owners: dict[bytes, str] = {}
        for ref in policy.spec["apiKeyAuth"]["credentialRefs"]:
            secret = view.found(reference(ref, policy.namespace, kind="Secret"))
            for client, value in _keys(secret) if secret is not None else ():
                name = f"{client} (Secret {ref['name'].text})"
                first = owners.setdefault(value, name)
                if first != name:
                    yield Trap(
                        policy,
                        ref,
                        f"{name} has the key of {first}: all routes of this policy answer 500",
                        "a key of its own for each client",
                    )


def _keys(secret: Object) -> Iterator[tuple[str, bytes]]:
    """Clients and their keys."""
    for client, value in secret["data"].entries():
        try:
            yield client, base64.b64decode(value.text, validate=True)
        except (binascii.Error, ValueError):
            continue  # the API server refuses such a Secret: there is no key
    for client, value in secret["stringData"].entries():
        yield client, value.text.encode(errors="surrogatepass")
