"""The other shapes of traps: what tests/golden/lint shows of each rule is its commonest one."""

from typing import Any

import pytest
import yaml

from epp.compiler.findings import Severity
from epp.lint.context import Context
from tests.lint.cases import linted

EG, AI, GW = (
    "gateway.envoyproxy.io/v1alpha1",
    "aigateway.envoyproxy.io/v1beta1",
    "gateway.networking.k8s.io/v1",
)
API = {
    **dict.fromkeys(["AIGatewayRoute", "AIServiceBackend", "BackendSecurityPolicy"], AI),
    "QuotaPolicy": "aigateway.envoyproxy.io/v1alpha1",
    **dict.fromkeys(["Backend", "BackendTrafficPolicy", "ClientTrafficPolicy", "EnvoyExtensionPolicy"], EG),
    **dict.fromkeys(["EnvoyGateway", "EnvoyProxy", "SecurityPolicy"], EG),
    **dict.fromkeys(["BackendTLSPolicy", "Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant"], GW),
    "InferencePool": "inference.networking.k8s.io/v1",
    "Service": "v1",
    "HelmRelease": "helm.toolkit.fluxcd.io/v2",
}
ON_AI = "targetRefs: [{kind: Gateway, name: ai}]"
GATEWAY = "Gateway ai: {gatewayClassName: envoy}"
CLASS = "GatewayClass envoy: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}"
POOL = "{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}"
ROUTE = (
    "AIGatewayRoute qwen: {parentRefs: [{name: ai}], rules: [{timeouts: {request: 600s}, matches: [{headers:"
    " [{name: x-ai-eg-model, value: qwen}]}], backendRefs: [REF]}]}"
)
HTTP_ROUTE = "HTTPRoute qwen: {parentRefs: [{name: ai}], rules: [{backendRefs: [REF]}]}"
CLEAN = (
    "ClientTrafficPolicy ai: {ON_AI, connection: {bufferLimit: 50Mi},"
    " headers: {earlyRequestHeaders: {remove: [x-ai-eg-model, x-gateway-destination-endpoint]}}}"
)
LIMIT = (
    "BackendTrafficPolicy teams: {ON_AI, rateLimit: {global: {rules:"
    " [{clientSelectors: [{headers: [{name: x-team, type: Distinct}]}]}]}}}"
)
CONFIG = "HelmRelease eg: {values: {config: {envoyGateway: CONFIG}}}"


def objects(*written: str) -> list[dict[str, Any]]:
    """``Kind name label=value: spec``, all in one namespace but for classes."""
    found = []
    for text in written:
        head, _, spec = text.replace("ON_AI", ON_AI).partition(": ")
        kind, name, *labels = head.split()
        meta = {"name": name, "labels": dict(label.split("=") for label in labels)}
        if kind != "GatewayClass":
            meta["namespace"] = "llm"
        found.append({"apiVersion": API[kind], "kind": kind, "metadata": meta, "spec": yaml.safe_load(spec)})
    return found


def told(*written: str, **context: Any) -> list[str]:
    """``Code field`` of each finding."""
    return [
        f"{one.code} {one.origin.field}" for one in linted(*objects(*written), context=Context(**context))
    ]


FOUND = {
    "authentication for routes by a label, which the HTTPRoute has of the AIGatewayRoute": (
        ["AuthenticationOnRoute spec.targetSelectors[0]"],
        [
            ROUTE.replace("qwen:", "qwen team=a:", 1).replace("REF", "{name: qwen}"),
            "SecurityPolicy a: {targetSelectors: [{kind: HTTPRoute, matchLabels: {team: a}}], jwt: {}}",
        ],
    ),
    "authentication for routes by an expression": (
        ["AuthenticationOnRoute spec.targetSelectors[0]"],
        [
            ROUTE.replace("qwen:", "qwen team=a:", 1).replace("REF", "{name: qwen}"),
            (
                "SecurityPolicy a: {jwt: {}, targetSelectors: [{kind: HTTPRoute, matchExpressions:"
                " [{key: team, operator: In, values: [a, b]}, {key: old, operator: DoesNotExist}]}]}"
            ),
        ],
    ),
    "authentication for routes with another label": (
        [],
        [
            ROUTE.replace("REF", "{name: qwen}"),
            "SecurityPolicy a: {targetSelectors: [{kind: HTTPRoute, matchLabels: {team: a}}], jwt: {}}",
        ],
    ),
    "authorization on an AI route whose Gateway's policies are not given": (
        ["GatewayPolicyReplaced spec.targetRefs[0]"],
        [
            ROUTE.replace("REF", "{name: qwen}"),
            "SecurityPolicy a: {targetRefs: [{kind: HTTPRoute, name: qwen}], authorization: {}}",
        ],
    ),
    "a pool and a Backend in an HTTPRoute": (
        ["MixedBackendRefs spec.rules[0].backendRefs"],
        [HTTP_ROUTE.replace("REF", f"{POOL}, {{group: gateway.envoyproxy.io, kind: Backend, name: mac}}")],
    ),
    "a pool and a Service in an HTTPRoute of Envoy Gateway": (
        ["MissingTimeout spec.rules[0].timeouts.request", "MixedBackendRefs spec.rules[0].backendRefs"],
        [GATEWAY, CLASS, HTTP_ROUTE.replace("REF", f"{POOL}, {{name: mac, port: 80}}")],
    ),
    "a pool and a Service in an HTTPRoute of nobody knows whom": (
        [],
        [GATEWAY, HTTP_ROUTE.replace("REF", f"{POOL}, {{name: mac, port: 80}}")],
    ),
    "an HTTPRoute to a pool whose timeout a policy says": (
        [],
        [
            *(GATEWAY, CLASS, HTTP_ROUTE.replace("REF", POOL)),
            ("BackendTrafficPolicy all: {ON_AI, timeout: {http: {requestTimeout: 600s}}}"),
        ],
    ),
    "an HTTPRoute that was made of an AIGatewayRoute": (
        ["MissingHeaderHygiene ", "SmallBuffer "],
        [GATEWAY, CLASS, ROUTE.replace("REF", POOL), HTTP_ROUTE.replace("REF", POOL)],
    ),
    "65 matches in one rule": (
        ["TooManyRules spec.rules"],
        [f"AIGatewayRoute all: {{rules: [{{timeouts: {{request: 1s}}, matches: {[{}] * 65}}}]}}"],
    ),
    "an AIServiceBackend without its Backend": (
        ["MissingBackend spec.backendRef.name"],
        [
            "AIServiceBackend qwen: {backendRef: {kind: Backend, name: qwen}}",
            "Backend llama: {endpoints: [{ip: {address: 10.0.0.1, port: 80}}]}",
        ],
    ),
    "a health check without a threshold of panic": (
        ["EjectionDefaults spec.healthCheck.panicThreshold"],
        ["BackendTrafficPolicy macs: {healthCheck: {active: {type: HTTP}}}"],
    ),
    "a limit by team with the client id of a key": (
        [],
        [
            *(GATEWAY, LIMIT),
            ("SecurityPolicy keys: {ON_AI, apiKeyAuth: {forwardClientIDHeader: X-Team}}"),
        ],
    ),
    "a limit by team with a default team": (
        [],
        [
            *(GATEWAY, LIMIT),
            (
                "ClientTrafficPolicy ai: {ON_AI,"
                " headers: {earlyRequestHeaders: {addIfAbsent: [{name: x-team, value: none}]}}}"
            ),
        ],
    ),
    "a limit by team where everything is allowed that no rule denies": (
        ["DistinctWithoutDeny spec.rateLimit.global.rules[0].clientSelectors[0].headers[0]"],
        [
            *(GATEWAY, LIMIT),
            "SecurityPolicy ai: {ON_AI, authorization: {defaultAction: Allow}}",
        ],
    ),
    "a token budget of a Gateway whose routes count nothing": (
        ["TokenCostMissing spec.rateLimit.global.rules[0].cost.response.metadata.key"],
        [
            *(GATEWAY, CLEAN, ROUTE.replace("REF", "{name: qwen}")),
            (
                "BackendTrafficPolicy all: {ON_AI, rateLimit: {global: {rules: [{cost:"
                " {response: {metadata: {namespace: io.envoy.ai_gateway, key: llm_total_token}}}}]}}}"
            ),
        ],
    ),
    "a processor without any metadata": (
        ["MissingWritableNamespaces spec.extProc[0].metadata.writableNamespaces"],
        ["EnvoyExtensionPolicy any: {extProc: [{processingMode: {request: {}, response: {}}}]}"],
    ),
    "a field of the access log that no processor may set": (
        ["MissingWritableNamespaces spec.extProc[0].metadata.writableNamespaces"],
        [
            "EnvoyExtensionPolicy any: {extProc: [{processingMode: {request: {}, response: {}}}]}",
            (
                "EnvoyProxy ai: {telemetry: {accessLog: {settings: [{format: {type: JSON,"
                ' json: {cost: "%DYNAMIC_METADATA(com.example:cost)%"}}}]}}}'
            ),
        ],
    ),
    "a processor that is never asked": (
        ["IncompleteProcessingMode spec.extProc[0].processingMode"],
        ["EnvoyExtensionPolicy any: {extProc: [{metadata: {writableNamespaces: [envoy.lb]}}]}"],
    ),
    "headers from claims that clients can send": (
        ["MissingHeaderHygiene spec.headers.earlyRequestHeaders.remove"],
        [
            *(GATEWAY, CLEAN, ROUTE.replace("REF", "{name: qwen}")),
            (
                "SecurityPolicy ai: {ON_AI,"
                " jwt: {providers: [{claimToHeaders: [{header: X-Team, claim: team}]}]}}"
            ),
        ],
    ),
    "a pool without a picker": (
        ["MissingPicker spec.endpointPickerRef"],
        [ROUTE.replace("REF", POOL), "InferencePool qwen: {selector: {matchLabels: {app: qwen}}}"],
    ),
    "a pool whose picker is called otherwise": (
        ["MissingPicker spec.endpointPickerRef.name"],
        [
            "InferencePool qwen: {endpointPickerRef: {name: epp}}",
            "Service fleet-epp: {ports: [{port: 9002}]}",
        ],
    ),
    "a pool with its picker at the usual port": (
        [],
        ["InferencePool qwen: {endpointPickerRef: {name: epp}}", "Service epp: {ports: [{port: 9002}]}"],
    ),
    "a quota for all models together": (
        ["QuotaNotCharged spec.serviceQuota"],
        ["QuotaPolicy all: {serviceQuota: {quota: {limit: 1, duration: 1h}}}"],
    ),
    "hooks that are not set": (
        [
            (
                "ExtensionManagerIncomplete"
                " spec.values.config.envoyGateway.extensionManager.hooks.xdsTranslator.post"
            )
        ],
        [ROUTE.replace("REF", "{name: qwen}"), CONFIG.replace("CONFIG", "{extensionManager: {}}")],
    ),
    "a HelmRelease that sets no seed": (
        ["InsecureSeed spec.values.controller.mcp.sessionEncryption.seed"],
        ["HelmRelease ai: {chart: {spec: {chart: ai-gateway-helm}}}"],
    ),
    "an address of one's own machine": (
        ["UnusableAddress spec.endpoints[0].ip.address"],
        ["Backend mac: {endpoints: [{ip: {address: 127.0.0.1, port: 8000}}]}"],
    ),
    "an authorizer in another namespace, which is not among the files": (
        ["MissingReferenceGrant spec.extAuth.grpc.backendRefs[0].namespace"],
        ["SecurityPolicy auth: {extAuth: {grpc: {backendRefs: [{name: authz, namespace: identity}]}}}"],
    ),
    "two policies for one target, by name and by label": (
        ["TwoPoliciesOnOneTarget spec.targetSelectors[0]"],
        [
            "HTTPRoute plain app=qwen: {}",
            "BackendTrafficPolicy first: {targetRefs: [{kind: HTTPRoute, name: plain}]}",
            "BackendTrafficPolicy second: {targetSelectors: [{kind: HTTPRoute, matchLabels: {app: qwen}}]}",
        ],
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_in_files(what: str) -> None:
    expected, written = FOUND[what]
    assert sorted(told(*written)) == expected


def test_priorities_without_any_policy_are_a_trap_in_a_cluster_only() -> None:
    route = ROUTE.replace("REF", "{name: a}, {name: b, priority: 1}")
    assert told(route) == []
    unread = frozenset({"AIServiceBackend"})
    assert told(route, is_live=True, unread=unread) == ["PriorityWithoutRetry spec.rules"]


def test_what_needs_a_grant_is_an_error_where_the_cluster_is_known() -> None:
    written = FOUND["an authorizer in another namespace, which is not among the files"][1]
    for context, severity in ((Context(), Severity.INFO), (Context(is_live=True), Severity.ERROR)):
        (finding,) = linted(*objects(*written), context=context)
        assert finding.severity is severity


@pytest.mark.parametrize(
    "cel, why",
    [
        ("", "there is no expression"),
        ("input_tokens * 2", "mixes"),
        ("0.5 * output_tokens", "mixes"),
        ("input_tokens + tokens", "there is no 'tokens'"),
        ("(input_tokens + output_tokens", "not closed"),
        ("model == 'qwen ? 1u : 2u", "not closed"),
        ("output_tokens / input_tokens", "divides"),
        ("input_tokens * 2u + uint(double(output_tokens) * 1.5)", ""),
        ("input_tokens > 0u ? output_tokens / input_tokens : 0u", ""),
        ("model in ['a', \"it's\"] ? total_tokens : 0u // don't", ""),
        ("[1u, 2u].exists(x, x == input_tokens) ? 1u : 2u", ""),
        ('model.startsWith("(") ? 1u : cached_input_tokens + 12u', ""),
    ],
)
def test_expressions_of_costs(cel: str, why: str) -> None:
    cost = {"metadataKey": "price", "type": "CEL", "cel": cel}
    (route,) = objects(ROUTE.replace("REF", "{name: qwen}"))
    route["spec"]["llmRequestCosts"] = [cost]
    found = [one for one in linted(route) if one.code == "CostNotReadable"]
    assert [why in one.message for one in found] == [True] * bool(why)
