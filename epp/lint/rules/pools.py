"""Traps of an InferencePool and of the picker that it names."""

import re
from collections.abc import Iterator

from epp.compiler.attachment import Reference
from epp.compiler.findings import Severity
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View

PICKER_PORT = 9002
"""Where a pool names none."""


@rule(
    Severity.WARNING,
    "failureMode of a pool is ignored",
    Admission(
        "InferencePool",
        "object.spec.?endpointPickerRef.?failureMode.orValue('FailClose') != 'FailOpen'",
        is_certain=False,
    ),
)
def failure_mode_ignored(view: View) -> Iterator[Trap]:
    """Envoy AI Gateway never goes on without the picker, whatever the pool's failureMode says.

    failure_mode_allow is always false (envoyproxy/ai-gateway#2502): with the picker down every request gets
    500, although FailOpen stands there for just that case.
    """
    for pool in view.of("InferencePool"):
        mode = pool.spec["endpointPickerRef"]["failureMode"]
        if mode.text == "FailOpen" and view.is_used_by_ai(pool):
            yield Trap(
                pool,
                mode,
                "is ignored by Envoy AI Gateway: without the picker every request gets 500",
                "failureMode: FailClose, which is what happens, and two replicas of the picker",
            )


@rule(Severity.ERROR, "a pool without a picker")
def missing_picker(view: View) -> Iterator[Trap]:
    """Every request to a pool is first sent to its picker; where that is not to be reached it gets 500.

    endpointPickerRef may be left out since v1.6 of the inference extension, and names a Service in the pool's
    own namespace and one of its ports; a wrong one is accepted. Envoy has no other way to choose a server.
    """
    for pool in view.of("InferencePool"):
        ref = pool.spec["endpointPickerRef"]
        named = _picker(pool)
        if not ref.is_there:
            if view.is_used_by_ai(pool):
                yield Trap(
                    pool,
                    ref,
                    "is not set: nobody chooses a server, every request gets 503",
                    "endpointPickerRef: {name: fleet-epp, port: {number: 9002}}",
                )
            continue
        if named.kind != "Service":
            continue
        service = view.found(named)
        number = ref["port"]["number"].number or PICKER_PORT
        if service is None and view.lacks(named):
            yield Trap(
                pool,
                ref["name"],
                f"there is no {named.title}: every request gets 500",
                "name the picker's Service; it must be in the pool's namespace",
                None if view.context.is_live else Severity.INFO,
            )
        elif service is not None and number not in [port["port"].number for port in service.spec["ports"]]:
            yield Trap(
                pool,
                ref["port"],
                f"{named.title} has no port {number:g}: every request gets 500",
                "name one of the Service's ports",
            )


def _picker(pool: Object) -> Reference:
    ref = pool.spec["endpointPickerRef"]
    return Reference(ref["kind"].text or "Service", pool.namespace, ref["name"].text, ref)


def _deployments(view: View, pool: Object) -> Iterator[Object]:
    """What runs behind the Service of its picker, as far as given."""
    service = view.found(_picker(pool))
    if service is None:
        return
    wanted = [(key, value.text) for key, value in service.spec["selector"].entries()]
    for one in view.of("Deployment"):
        labels = one.spec["template"]["metadata"]["labels"]
        is_behind = wanted and all(labels[key].text == value for key, value in wanted)
        if is_behind and one.namespace == pool.namespace:
            yield one


def _set(view: View, flag: str, value: str) -> Iterator[tuple[Object, Object]]:
    """Pools of AIGatewayRoutes with the Deployment of their picker, where its arguments say so."""
    said = re.compile(rf"--?{flag}[= ]{value}")
    for pool in view.of("InferencePool"):
        if view.is_used_by_ai(pool):
            for one in _deployments(view, pool):
                if said.search(" ".join(argument.text for argument in view.arguments(one))):
                    yield pool, one


@rule(Severity.ERROR, "a picker without TLS behind Envoy AI Gateway")
def plaintext_picker(view: View) -> Iterator[Trap]:
    """Envoy AI Gateway always speaks TLS to a picker, and no annotation turns it off.

    A picker with --secure-serving=false then gives 500 with WRONG_VERSION_NUMBER in Envoy's log. Told where
    the picker's Deployment is given; what runs behind a Service is otherwise not to be seen.
    """
    for pool, deployment in _set(view, "secure-serving", "false"):
        yield Trap(
            deployment,
            "spec.template.spec.containers",
            f"has --secure-serving=false, and {pool.title} is asked for over TLS: every request gets 500",
            "leave --secure-serving at true; its certificate may be self-signed",
        )


@rule(Severity.ERROR, "a list of destinations for Envoy AI Gateway")
def ordered_destinations(view: View) -> Iterator[Trap]:
    """Envoy AI Gateway takes one address from the picker's header. A list of them is 503, "no healthy
    upstream".

    --destinations=ordered is for data planes that walk a list: Istio, or a Backend with endpointOverride.
    """
    for pool, deployment in _set(view, "destinations", "ordered"):
        yield Trap(
            deployment,
            "spec.template.spec.containers",
            f"has --destinations=ordered, and {pool.title} is behind Envoy AI Gateway: 503 to every request",
            "leave --destinations at its default, one address",
        )


@rule(Severity.WARNING, "TLS to the servers of a pool")
def pool_without_tls(view: View) -> Iterator[Trap]:
    """A BackendTLSPolicy has no effect on an InferencePool in Envoy AI Gateway: it speaks plaintext to
    servers.

    Prompts cross the network unencrypted although a policy says otherwise, or servers that want TLS answer
    nothing.
    """
    for policy in view.of("BackendTLSPolicy"):
        for ref in view.targets(policy):
            pool = view.found(ref)
            if ref.kind == "InferencePool" and pool is not None and view.is_used_by_ai(pool):
                yield Trap(
                    policy,
                    ref.at,
                    f"has no effect: Envoy AI Gateway speaks plaintext to the servers of {ref.title}",
                    "encrypt below (a mesh, WireGuard), or reach them as a Backend with tls",
                )
