"""What a gateway does with a request, by the objects that it is given.

Three ways of trying routes, written from the specifications alone; shares no code with the compiler.
Source: Gateway API v1.5, HTTPRouteRule.matches (precedence); Envoy Gateway 1.8 (number of exact matchers
        after the
number of matchers; EnvoyProxy.spec.preserveRouteOrder); Envoy AI Gateway (x-ai-eg-model, route-not-found).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tests.meaning.request import Answer, Request

SERVICE_LABELS = ("inference.llmkube.dev/service", "app")


class Order(Enum):
    """How matches are tried."""

    GATEWAY_API = "by the number of headers"
    ENVOY = "by the number of headers, then of exact ones"
    DECLARED = "as they are written"


@dataclass(frozen=True)
class _Try:
    """A match with the rule that it leads to."""

    headers: Sequence[Mapping[str, Any]]
    rule: Mapping[str, Any]
    route: Mapping[str, Any]


class Gateway:
    """``objects``: everything that was applied, in the order in which it was created."""

    def __init__(
        self,
        objects: Iterable[Mapping[str, Any]],
        *,
        route: str,
        model_header: str,
        order: Order,
        addresses: Mapping[str, str],
    ) -> None:
        """``addresses``: whose server is there."""
        self._objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self._addresses = addresses
        self._model_header = model_header
        # Envoy AI Gateway writes the header whatever the body says, others only what is there
        self.names_none = route == "AIGatewayRoute"
        routes = [one for (kind, _), one in self._objects.items() if kind == route]
        tries = [one for route in routes for one in _tries(route)]
        if route == "AIGatewayRoute":  # the catch-all of each of its HTTPRoutes, after its own rules
            tries = [one for route in routes for one in [*_tries(route), _Try((), {}, route)]]
        self._tries = sorted(tries, key=_KEYS[order])

    def answer(self, request: Request) -> Answer:
        headers = dict(request.headers)
        if request.model or self.names_none:
            headers[self._model_header] = request.model
        for one in self._tries:
            if all(_fits(matcher, headers) for matcher in one.headers):
                served_by = tuple(dict.fromkeys(self._served_by(one.rule)))
                return Answer(served_by, str(one.route["metadata"]["name"]), not self._is_picked(one.rule))
        return Answer(because="404")

    # --- who serves a rule

    def _is_picked(self, rule: Mapping[str, Any]) -> bool:
        """A picker chooses among all of them, or they have shares."""
        refs = rule.get("backendRefs") or ()
        priorities = {one.get("priority", 0) for one in refs}
        return any(one.get("kind") == "InferencePool" for one in refs) or len(priorities) < len(refs)

    def _served_by(self, rule: Mapping[str, Any]) -> Iterator[str]:
        refs = [one for one in rule.get("backendRefs") or () if one.get("weight", 1) > 0]
        for ref in sorted(refs, key=lambda one: one.get("priority", 0)):
            kind = ref.get("kind", "AIServiceBackend")
            yield from getattr(self, f"_{kind.lower()}")(ref["name"])

    def _inferencepool(self, name: str) -> Iterator[str]:
        pool = self._objects["InferencePool", name]
        labels = pool["spec"]["selector"]["matchLabels"]
        yield from {labels[label] for label in SERVICE_LABELS if label in labels}
        slices = pool["metadata"].get("annotations", {}).get("fleet-epp.dev/endpoint-slices", "")
        named = re.fullmatch(r"kubernetes\.io/service-name in \((.*)\)", slices)
        yield from named.group(1).split(",") if named else ()

    def _aiservicebackend(self, name: str) -> Iterator[str]:
        yield from self._backend(self._objects["AIServiceBackend", name]["spec"]["backendRef"]["name"])

    def _backend(self, name: str) -> Iterator[str]:
        for one in self._objects["Backend", name]["spec"]["endpoints"]:
            yield from self._host(one["fqdn"]["hostname"] if "fqdn" in one else one["ip"]["address"])

    def _host(self, name: str) -> Iterator[str]:
        """A Service of the cluster, or a host outside; a name that no DNS may know is nobody's [RFC 6761]."""
        if name.endswith(".invalid"):
            return
        if name.endswith(".svc.cluster.local"):
            yield from self._service(name.partition(".")[0])
        else:
            yield self._addresses.get(name, name)

    def _service(self, name: str) -> Iterator[str]:
        """One that was made for it leads to addresses, any other is the model's own."""
        if ("Service", name) not in self._objects:
            yield name
        for (kind, _), one in self._objects.items():
            if kind == "EndpointSlice" and one["metadata"]["labels"]["kubernetes.io/service-name"] == name:
                for endpoint in one["endpoints"]:
                    yield from map(self._addresses.__getitem__, endpoint["addresses"])

    def _agentgatewaybackend(self, name: str) -> Iterator[str]:
        ai = self._objects["AgentgatewayBackend", name]["spec"]["ai"]
        groups = ai.get("groups") or [{"providers": [{"name": name, **ai["provider"]}]}]
        for one in (provider for group in groups for provider in group["providers"]):
            ref = one.get("custom", {}).get("backendRef")
            if ref:
                yield from getattr(self, f"_{ref['kind'].lower()}")(ref["name"])
            else:
                yield from self._host(one["host"])


def _tries(route: Mapping[str, Any]) -> Iterator[_Try]:
    for rule in route["spec"]["rules"]:
        for match in rule.get("matches") or [{}]:
            yield _Try(match.get("headers") or (), rule, route)


_KEYS: Mapping[Order, Callable[[_Try], tuple[int, ...]]] = {
    Order.GATEWAY_API: lambda one: (-len(one.headers),),
    Order.ENVOY: lambda one: (
        -len(one.headers),
        -sum(matcher.get("type", "Exact") == "Exact" for matcher in one.headers),
    ),
    Order.DECLARED: lambda _: (),
}


def _fits(matcher: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    found = headers.get(matcher["name"].lower())
    if found is None:
        return False
    if matcher.get("type", "Exact") == "Exact":
        return bool(found == matcher["value"])
    return re.fullmatch(matcher["value"], found) is not None
