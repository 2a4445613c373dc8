"""Traps in how Envoy Gateway and Envoy AI Gateway are configured: Helm values, ConfigMaps, arguments."""

from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Trap, rule
from epp.lint.view import INFERENCE, View

SEED = "default-insecure-seed"
_INT32 = 2**31 - 1
_HOOKS = ("Translation", "Cluster", "Route")


@rule(Severity.ERROR, "sessions are encrypted with a key that everybody knows")
def insecure_seed(view: View) -> Iterator[Trap]:
    """The chart of Envoy AI Gateway derives the key of MCP sessions from "default-insecure-seed" by default.

    Who knows the chart can read and forge session ids. Found wherever the text stands (values, arguments,
    ConfigMaps), and in a Flux HelmRelease of the chart that sets no seed.
    """
    for one in view.everything():
        if one.kind in {"Secret", "CustomResourceDefinition"}:
            continue
        chart = one.spec["chart"]["spec"]["chart"].text
        seed = one.spec["values"]["controller"]["mcp"]["sessionEncryption"]["seed"]
        found = next((node for node in Node(one.document.content).texts() if SEED in node.text), None)
        if found is None and chart == "ai-gateway-helm" and not seed.is_there:
            found = seed
        if found is not None:
            yield Trap(
                one,
                found,
                f"is {SEED}, as in every installation: MCP sessions can be read and forged",
                "controller.mcp.sessionEncryption.seed: a long random text, from a Secret",
            )


@rule(Severity.ERROR, "a kind in backendResources that is not installed")
def crd_missing(view: View) -> Iterator[Trap]:
    """Envoy Gateway watches every kind in extensionManager.backendResources without looking whether it
    exists.

    With InferencePool there before its CRD it crashes, starts again and crashes (1.8.1 and 1.9.0): no
    Gateway of the cluster gets new configuration. In files this is told, as a remark, where other CRDs are
    there.
    """
    known = {
        (one.spec["group"].text, one.spec["names"]["kind"].text)
        for one in view.of("CustomResourceDefinition")
    }
    if not known and not view.is_complete("CustomResourceDefinition", ""):
        return
    for holder, config in view.envoy_gateways():
        for one in config["extensionManager"]["backendResources"]:
            if (one["group"].text, one["kind"].text) not in known:
                yield Trap(
                    holder,
                    one["kind"],
                    f"{one['kind'].text}.{one['group'].text} is not installed: Envoy Gateway crashes"
                    " at its start",
                    "install the CRDs first, then this configuration",
                    None if view.is_complete("CustomResourceDefinition", "") else Severity.INFO,
                )


@rule(Severity.ERROR, "Backends that are switched off")
def backend_api_off(view: View) -> Iterator[Trap]:
    """Without extensionApis.enableBackend Envoy Gateway does not look at Backends; routes to them answer
    500.
    """
    configs = list(view.envoy_gateways())
    if not any(True for _ in view.of("Backend")):
        return
    for holder, config in configs:
        if not config["extensionApis"]["enableBackend"].is_true:
            yield Trap(
                holder,
                config["extensionApis"]["enableBackend"],
                "is not true: Backends are not looked at, routes to them answer 500",
                "extensionApis: {enableBackend: true}",
            )


@rule(Severity.ERROR, "Envoy Gateway does not ask the AI gateway")
def extension_manager_incomplete(view: View) -> Iterator[Trap]:
    """The AI gateway sees routes and clusters through hooks, and pools through backendResources.

    Without the hooks AIGatewayRoutes are accepted and nothing picks or counts; without InferencePool
    (version v1) in backendResources a route to a pool is not resolved.
    """
    if not any(True for _ in view.of("AIGatewayRoute")):
        return
    uses_pools = any(True for _ in view.pool_refs())
    for holder, config in view.envoy_gateways():
        manager = config["extensionManager"]
        hooks = manager["hooks"]["xdsTranslator"]["post"]
        missing = [one for one in _HOOKS if one not in [hook.text for hook in hooks]]
        if missing:
            yield Trap(
                holder,
                hooks,
                f"lacks {', '.join(missing)}: AIGatewayRoutes are accepted and do not work",
                f"post: [{', '.join(_HOOKS)}]",
            )
        if uses_pools and not any(_is_pool(one) for one in manager["backendResources"]):
            yield Trap(
                holder,
                manager["backendResources"],
                "lacks InferencePool: routes to pools are not resolved",
                f"backendResources: [{{group: {INFERENCE}, kind: InferencePool, version: v1}}], after"
                " its CRD",
            )


def _is_pool(one: Node) -> bool:
    wanted = {"group": INFERENCE, "kind": "InferencePool", "version": "v1"}
    return all(one[key].text == value for key, value in wanted.items())


@rule(Severity.ERROR, "CRDs that refuse every limit")
def limits_refused(view: View) -> Iterator[Trap]:
    """The CRD of BackendTrafficPolicy in Envoy Gateway v1.8.0 and v1.8.1 refuses whoever sets a rate limit.

    Its number of requests is an int32 with a maximum that is none, "Maximum boundary value must be of type
    integer with format int32" (envoyproxy/gateway#9186): neither local nor global limits can be applied,
    nor an object that has one beside other things. v1.8.2 has it mended; the CRDs are installed apart from
    the program.
    """
    for crd in view.of("CustomResourceDefinition"):
        if crd.spec["names"]["kind"].text != "BackendTrafficPolicy":
            continue
        for version in crd.spec["versions"]:
            requests = version["schema"]["openAPIV3Schema"]
            for name in ("spec", "rateLimit", "global", "rules"):
                requests = requests["properties"][name]
            requests = requests["items"]["properties"]["limit"]["properties"]["requests"]
            if requests["format"].text == "int32" and (requests["maximum"].number or 0) > _INT32:
                yield Trap(
                    crd,
                    requests["maximum"],
                    "is larger than an int32: the API server refuses every BackendTrafficPolicy with a limit",
                    "install the CRDs of Envoy Gateway v1.8.2 or later",
                )
