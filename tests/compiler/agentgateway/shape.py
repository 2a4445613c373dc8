"""What agentgateway's two kinds can say, as far as we say it: its CRDs are not here.

Facts from its Go types, controller/api/v1alpha1/agentgateway at 005d0299 (policies) and 08abd7b4 (backends):
names of fields, limits, enumerations, and the rules that are CEL in the CRDs. A field that is not listed is a
fault.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any, str], None]


def text(longest: int = 256, pattern: str = r".+") -> Check:
    def check(value: Any, at: str) -> None:
        assert isinstance(value, str) and len(value) <= longest, f"{at}: {value!r}"
        assert re.fullmatch(pattern, value, re.DOTALL), f"{at}: {value!r} is not {pattern}"

    return check


def one_of(*values: object) -> Check:
    def check(value: Any, at: str) -> None:
        assert value in values, f"{at}: {value!r} is none of {values}"

    return check


def number(least: int, most: int) -> Check:
    def check(value: Any, at: str) -> None:
        assert type(value) is int and least <= value <= most, f"{at}: {value!r}"

    return check


def items(each: Check, most: int) -> Check:
    def check(value: Any, at: str) -> None:
        assert isinstance(value, Sequence) and 0 < len(value) <= most, f"{at}: {len(value)} items"
        for index, one in enumerate(value):
            each(one, f"{at}[{index}]")

    return check


def fields(
    known: Mapping[str, Check], required: Sequence[str] = (), exactly_one: Sequence[Sequence[str]] = ()
) -> Check:
    def check(value: Any, at: str) -> None:
        assert isinstance(value, Mapping), f"{at}: {value!r}"
        assert not value.keys() - known.keys(), f"{at}: has no {sorted(value.keys() - known.keys())}"
        assert not set(required) - value.keys(), f"{at}: lacks {sorted(set(required) - value.keys())}"
        for names in exactly_one:
            assert len([name for name in names if name in value]) == 1, f"{at}: exactly one of {names}"
        for name, one in value.items():
            known[name](one, f"{at}.{name}")

    return check


CEL = text(16384)
DURATION = text(pattern=r"([0-9]{1,5}(h|m|s|ms)){1,4}")
HEADER = text(256, r":?[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
NAME = text(253, r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
PORT = number(1, 65535)
EMPTY = fields({})
REFERENCE = fields(
    {
        "group": one_of("", "inference.networking.k8s.io", "agentgateway.dev"),
        "kind": one_of("Service", "InferencePool", "AgentgatewayBackend"),
        "name": NAME,
        "port": PORT,
    },
    ["name"],
)
SECRET = fields({"name": NAME}, ["name"])

# --- AgentgatewayBackend -----------------------------------------------------------------------------------

PROVIDERS = {
    "openai": fields({"model": text()}),
    "anthropic": fields({"model": text()}),
    "bedrock": fields({"model": text(), "region": text(63, "[a-z0-9-]+")}),
    "azureopenai": fields({"endpoint": text(), "deploymentName": text()}, ["endpoint"]),
    "custom": fields(
        {
            "backendRef": REFERENCE,
            "model": text(),
            "formats": items(
                fields({"type": one_of("Completions", "Embeddings", "Messages", "Responses")}, ["type"]), 6
            ),
        },
        ["formats"],
    ),
}
POLICIES = fields(
    {
        "tls": EMPTY,
        "auth": fields(
            {"secretRef": SECRET, "aws": fields({"secretRef": SECRET})}, (), [["secretRef", "aws"]]
        ),
        "http": fields({"requestTimeout": DURATION}),
        "health": fields(
            {
                "unhealthyCondition": CEL,
                "eviction": fields({"duration": DURATION, "consecutiveFailures": number(0, 100)}),
            }
        ),
        "ai": fields(
            {
                "routes": fields(
                    {
                        path: one_of("Completions", "Embeddings", "Messages", "Responses", "Detect")
                        for path in (
                            "/v1/chat/completions",
                            "/v1/embeddings",
                            "/v1/messages",
                            "/v1/responses",
                            "*",
                        )
                    }
                )
            }
        ),
    }
)


def provider(value: Any, at: str) -> None:
    known = {**PROVIDERS, "name": NAME, "policies": POLICIES}
    known |= {"host": text(), "port": PORT, "pathPrefix": text(1024)}
    fields(known, ["name"], [list(PROVIDERS)])(value, at)
    assert ("host" in value) == ("port" in value), f"{at}: host and port go together"
    assert "pathPrefix" not in value or "host" in value, f"{at}: pathPrefix requires host"
    if "custom" in value:
        assert ("backendRef" in value["custom"]) != ("host" in value), f"{at}: backendRef or host"


def groups(value: Any, at: str) -> None:
    items(fields({"providers": items(provider, 16)}, ["providers"]), 8)(value, at)
    names = [one["name"] for group in value for one in group["providers"]]
    assert len(names) == len(set(names)), f"{at}: names of providers are unique"


BACKEND = fields(
    {
        "ai": fields({"groups": groups}, ["groups"]),
        "static": fields({"host": text(), "port": PORT}, ["host", "port"]),
        "policies": POLICIES,
    },
    (),
    [["ai", "static"]],
)

# --- AgentgatewayPolicy ------------------------------------------------------------------------------------

TARGET = fields(
    {
        "group": one_of("gateway.networking.k8s.io"),
        "kind": one_of("Gateway", "HTTPRoute"),
        "name": NAME,
        "sectionName": NAME,
    },
    ["group", "kind", "name"],
)
SELECTOR = fields(
    {
        "group": one_of("gateway.networking.k8s.io"),
        "kind": one_of("HTTPRoute"),
        "matchLabels": fields({"fleet-epp.dev/router": text(63)}),
    },
    ["group", "kind", "matchLabels"],
)
ADDED = fields({"name": text(), "expression": CEL}, ["name", "expression"])
REMOTE = fields({"jwksPath": text(2000), "backendRef": REFERENCE}, ["jwksPath", "backendRef"])
TRAFFIC = {
    "phase": one_of("PreRouting"),
    "transformation": fields(
        {
            "request": fields(
                {"set": items(fields({"name": HEADER, "value": CEL}, ["name", "value"]), 16)}, ["set"]
            )
        }
    ),
    "jwtAuthentication": fields(
        {
            "mode": one_of("Strict"),
            "providers": items(
                fields(
                    {
                        "issuer": text(),
                        "audiences": items(text(), 64),
                        "jwks": fields({"remote": REMOTE}, ["remote"]),
                    },
                    ["issuer", "jwks"],
                ),
                64,
            ),
        },
        ["providers"],
    ),
    "authorization": fields(
        {"action": one_of("Allow"), "policy": fields({"matchExpressions": items(CEL, 256)})}, ["policy"]
    ),
    "rateLimit": fields(
        {
            "local": items(
                fields(
                    {"tokens": number(1, 2**31 - 1), "unit": one_of("Seconds", "Minutes", "Hours")},
                    ["tokens", "unit"],
                ),
                16,
            )
        }
    ),
    "retry": fields({"attempts": number(1, 1000), "codes": items(number(400, 599), 1000)}),
    "directResponse": fields({"status": number(200, 599), "body": text(4096)}, ["status"]),
}
BEFORE_ROUTING = {"phase", "transformation", "jwtAuthentication"}
LOG = fields(
    {"accessLog": fields({"attributes": fields({"add": items(ADDED, 64)}, ["add"])}, ["attributes"])}
)


def policy(value: Any, at: str) -> None:
    known = {"targetRefs": items(TARGET, 16), "targetSelectors": items(SELECTOR, 16)}
    known |= {"traffic": fields(TRAFFIC), "frontend": LOG}
    fields(known, (), [["traffic", "frontend"], ["targetRefs", "targetSelectors"]])(value, at)
    targets = value.get("targetRefs") or value["targetSelectors"]
    assert len({one["kind"] for one in targets}) == 1, f"{at}: targets of one kind"
    if "frontend" in value:
        assert all(one["kind"] == "Gateway" and "sectionName" not in one for one in targets), at
    if value.get("traffic", {}).get("phase") == "PreRouting":
        assert all(one["kind"] == "Gateway" for one in targets), at
        assert not value["traffic"].keys() - BEFORE_ROUTING, at


SPECS: Mapping[str, Check] = {"AgentgatewayBackend": BACKEND, "AgentgatewayPolicy": policy}


def assert_known(document: Mapping[str, Any]) -> None:
    """An object of another kind is not looked at."""
    kind, name = document["kind"], document["metadata"]["name"]
    if kind in SPECS:
        assert document["apiVersion"] == "agentgateway.dev/v1alpha1"
        SPECS[kind](document["spec"], f"{kind}/{name}: spec")
