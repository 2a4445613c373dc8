"""What an API server checks of an object by its schema, and the few CEL rules that ours could break.

A real API server checks all of it in tests/system; here it is quick enough for thousands of objects.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parents[2] / "crds"
VERSIONS = {
    "envoy-ai-gateway-0.7": "envoy-ai-gateway-v0.7.0",
    "envoy-ai-gateway-1.1": "envoy-ai-gateway-v1.1.0",
}
FOLDERS = {
    "gateway.envoyproxy.io": "envoy-gateway-v1.8.1",
    "gateway.networking.k8s.io": "gateway-api-v1.5.1",
    "inference.networking.k8s.io": "gie-v1.5.0",
    "inference.llmkube.dev": "llmkube-v0.9.19",
}
BUILT_IN = {"Service", "EndpointSlice"}


def complaints(document: dict[str, Any], target: str) -> list[str]:
    """What is wrong with it; none: an API server would take it."""
    kind = document["kind"]
    if kind in BUILT_IN:
        return []
    group, version = document["apiVersion"].split("/")
    schema = _schema(VERSIONS[target] if group.startswith("aigateway") else FOLDERS[group], kind, version)
    assert len(document["metadata"]["name"]) <= 63
    return [*_wrong(document["spec"], schema, "spec"), *_broken_rules(document)]


@cache
def _schema(folder: str, kind: str, version: str) -> dict[str, Any]:
    for path in sorted((CRDS / folder).glob("*.yaml")):
        if kind.lower() not in path.name.replace("policies", "policy").replace("proxies", "proxy"):
            continue
        crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        if crd["spec"]["names"]["kind"] == kind:
            (found,) = [one for one in crd["spec"]["versions"] if one["name"] == version]
            spec: dict[str, Any] = found["schema"]["openAPIV3Schema"]["properties"]["spec"]
            return spec
    raise LookupError(f"{kind} {version} is not in {folder}")


def _wrong(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kind = schema.get("type")
    if kind and not isinstance(value, kinds[kind]):
        yield f"{at}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        yield from _wrong_object(value, schema, at)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} items"
        keys = schema.get("x-kubernetes-list-map-keys", [])
        if keys and len({tuple(one.get(key) for key in keys) for one in value}) < len(value):
            yield f"{at}: twice the same {keys}"
        for number, one in enumerate(value):
            yield from _wrong(one, schema["items"], f"{at}[{number}]")
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{at}: {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"].replace("\\x60", "`"), value):
            yield f"{at}: {value!r} does not match {schema['pattern']}"
    elif isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: {value}"


def _wrong_object(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}.{name} is missing"
    if len(value) > schema.get("maxProperties", len(value)):
        yield f"{at}: {len(value)} fields"
    for name, one in value.items():
        if name in properties:
            yield from _wrong(one, properties[name], f"{at}.{name}")
        elif others:
            yield from _wrong(one, others, f"{at}.{name}")
        else:
            yield f"{at}.{name} is not known"


def _broken_rules(document: dict[str, Any]) -> Iterator[str]:
    if document["kind"] == "Backend":
        kinds = {next(iter(one)) for one in document["spec"]["endpoints"]}
        if len(kinds) > 1:
            yield "fqdn addresses cannot be mixed with other address types"
    if document["kind"] != "AIGatewayRoute":
        return
    rules = document["spec"]["rules"]
    names = [one["name"] for one in rules if "name" in one]
    if len(set(names)) < len(names):
        yield "rule name must be unique within the route"
    if "route-not-found" in names:
        yield "rule name route-not-found is reserved"
    for rule in rules:
        pools = ["kind" in ref for ref in rule["backendRefs"]]
        if any(pools) and len(pools) > 1:
            yield "only one InferencePool backend is allowed per rule, and nothing beside it"
    # the HTTPRoute that is made of it has one rule and one match more
    matches = [len(one["matches"]) for one in rules]
    if len(rules) > 15 or max(matches) > 64 or sum(matches) > 127:
        yield f"an HTTPRoute has no room for {len(rules)} rules with {matches} matches"
