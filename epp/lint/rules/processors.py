"""Traps of external processors that are attached with an EnvoyExtensionPolicy."""

import re
from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Admission, Trap, rule
from epp.lint.rules.traffic import AI_METADATA
from epp.lint.view import Object, View

_FULL_DUPLEX = "FullDuplexStreamed"
_ALL = "object.spec.?extProc.orValue([]).all(e, {})"
_DIRECTIONS = ("request", "response")


def _processors(view: View) -> Iterator[tuple[Object, Node]]:
    for policy in view.of("EnvoyExtensionPolicy"):
        for processor in policy.spec["extProc"]:
            yield policy, processor


@rule(
    Severity.ERROR,
    "failOpen with full duplex bodies",
    Admission(
        "EnvoyExtensionPolicy",
        _ALL.format(
            "!e.?failOpen.orValue(false) || !("
            + " || ".join(
                f"e.?processingMode.?{one}.?body.orValue('') == '{_FULL_DUPLEX}'" for one in _DIRECTIONS
            )
            + ")"
        ),
    ),
)
def fail_open_full_duplex(view: View) -> Iterator[Trap]:
    """In full duplex the body is at the processor when that fails, so there is nothing left to go on with.

    Measured with Envoy: with the processor down and failOpen, 39 of 40 POST requests got 500. The CRD of
    Envoy Gateway refuses the combination. What keeps requests going is two replicas of the picker.
    """
    for policy, processor in _processors(view):
        mode = processor["processingMode"]
        if processor["failOpen"].is_true and any(
            mode[one]["body"].text == _FULL_DUPLEX for one in _DIRECTIONS
        ):
            yield Trap(
                policy,
                processor["failOpen"],
                "does not work with FullDuplexStreamed: requests with a body get 500 while the processor is"
                " down, and the API server refuses the policy",
                "failOpen: false, and two replicas of the processor",
            )


@rule(Severity.WARNING, "metadata of a processor that nobody lets through")
def missing_writable_namespaces(view: View) -> Iterator[Trap]:
    """Envoy drops dynamic metadata of a processor unless its namespace is in writableNamespaces, in silence.

    A token count that a processor sets is then never charged, a field of the access log stays "-", a picker's
    "envoy.lb" is not heard. A warning where something that is given reads a namespace that no processor may
    write, otherwise a remark.
    """
    allowed = {
        one.text for _, processor in _processors(view) for one in processor["metadata"]["writableNamespaces"]
    }
    unheard = sorted(set(_read(view)) - allowed)
    for policy, processor in _processors(view):
        if len(processor["metadata"]["writableNamespaces"]):
            continue
        needed = ", ".join(unheard)
        yield Trap(
            policy,
            processor["metadata"]["writableNamespaces"],
            f"is empty, and {needed} is read: what the processor writes there is dropped"
            if needed
            else "is empty: all metadata of the processor is dropped",
            f"metadata: {{writableNamespaces: [{needed or 'envoy.lb'}]}}",
            None if needed else Severity.INFO,
        )


def _read(view: View) -> Iterator[str]:
    """Namespaces of metadata that limits are charged from and access logs show."""
    for policy in view.of("BackendTrafficPolicy"):
        for limit in policy.spec["rateLimit"]["global"]["rules"]:
            for direction in _DIRECTIONS:
                name = limit["cost"][direction]["metadata"]["namespace"].text
                if name and name != AI_METADATA:
                    yield name
    for proxy in view.of("EnvoyProxy"):
        for text in proxy.spec["telemetry"]["accessLog"].texts():
            for name in re.findall(r"%DYNAMIC_METADATA\(([^:)]+)", text.text):
                if name != AI_METADATA and not name.startswith("envoy.filters."):
                    yield name


_MODE = "e.?processingMode.?{}.?body.hasValue()"


@rule(
    Severity.WARNING,
    "a processor that sees half of a request",
    Admission(
        "EnvoyExtensionPolicy",
        _ALL.format(
            "(e.?processingMode.?request.hasValue() || e.?processingMode.?response.hasValue()) && "
            + " == ".join(_MODE.format(one) for one in _DIRECTIONS)
        ),
    ),
)
def incomplete_processing_mode(view: View) -> Iterator[Trap]:
    """Both directions are independent, and an empty one ("request: {}") means headers only.

    A picker that is shown the request's body but not the response's never learns that a request has ended
    or what it used, and its counts of what is in flight drift. Without any direction the processor is never
    asked.
    """
    for policy, processor in _processors(view):
        mode = processor["processingMode"]
        bodies = [one for one in _DIRECTIONS if mode[one]["body"].is_there]
        if not any(mode[one].is_there for one in _DIRECTIONS):
            yield Trap(
                policy,
                mode,
                "has neither request nor response: the processor is never asked",
                "{request: {body: FullDuplexStreamed}, response: {body: Streamed}}",
            )
        elif len(bodies) == 1:
            (other,) = set(_DIRECTIONS) - set(bodies)
            yield Trap(
                policy,
                mode[other],
                f"has no body: of the {other} the processor sees headers at most, and not its end",
                "{request: {body: FullDuplexStreamed}, response: {body: Streamed}}",
            )


@rule(Severity.INFO, "a processor sees requests that are refused later")
def processor_before_refusal(view: View) -> Iterator[Trap]:
    """Processors stand before authorization and limits, whatever the policies are called.

    A picker attached to the Gateway chooses a server for requests that are then answered 403 or 429. It must
    give back what it reserved when the stream ends without a response, as fleet-epp does.
    """
    for policy, processor in _processors(view):
        for gateway in view.gateways_of(policy):
            at = ("Gateway", gateway.namespace, gateway.name)
            routes = [("HTTPRoute", one.namespace, one.name) for one in view.ai_routes(gateway)]
            refusing = [
                one for one in view.policies("SecurityPolicy", at) if one.spec["authorization"].is_there
            ]
            refusing += [
                one
                for one in view.policies("BackendTrafficPolicy", at, *routes)
                if one.spec["rateLimit"].is_there
            ]
            if refusing:
                yield Trap(
                    policy,
                    processor,
                    f"is asked about requests before {refusing[0].title} refuses them",
                    "use a processor that gives back what it booked when a stream ends without a response",
                )
