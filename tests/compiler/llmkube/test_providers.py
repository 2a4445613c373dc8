"""Backends outside of the cluster."""

from typing import Any

import pytest

from epp.compiler.intent import Schema
from tests.compiler.llmkube.cluster import (
    document,
    outside,
    read,
    read_backend,
    refused,
    router,
    rule,
    upstream_of,
)

SENSITIVE = {"dataClassification": ["pii"]}


@pytest.mark.parametrize(
    "url, host, port, tls, prefix",
    [
        ("http://192.168.1.47:8083/v1", "192.168.1.47", 8083, False, "/v1"),
        ("http://192.168.1.47:8083", "192.168.1.47", 8083, False, "/v1"),
        ("https://llm.example.com", "llm.example.com", 443, True, "/v1"),
        ("https://llm.example.com/", "llm.example.com", 443, True, "/v1"),
        ("https://llm.example.com/openai", "llm.example.com", 443, True, "/openai/v1"),
        ("https://llm.example.com/api/v3/", "llm.example.com", 443, True, "/api/v3"),
        ("https://LLM.example.com:8443/v1beta1", "llm.example.com", 8443, True, "/v1beta1"),
        ("http://[2001:db8::1]:8000/v1", "2001:db8::1", 8000, False, "/v1"),
    ],
)
def test_a_url_says_where_and_how(url: str, host: str, port: int, tls: bool, prefix: str) -> None:
    server = upstream_of(read_backend(backend=outside("there", url=url)))
    assert (server.host, server.port, server.tls, server.prefix) == (host, port, tls, prefix)


@pytest.mark.parametrize(
    "provider, url, schema, host, region",
    [
        ("openai", None, Schema.OPENAI, "api.openai.com", ""),
        ("anthropic", None, Schema.ANTHROPIC, "api.anthropic.com", ""),
        ("litellm", "http://litellm.llm.svc:4000", Schema.OPENAI, "litellm.llm.svc", ""),
        (
            "bedrock",
            "https://bedrock-runtime.eu-central-1.amazonaws.com",
            Schema.BEDROCK,
            "bedrock-runtime.eu-central-1.amazonaws.com",
            "eu-central-1",
        ),
        (
            "vertex_ai",
            "https://europe-west4-aiplatform.googleapis.com",
            Schema.VERTEX,
            "europe-west4-aiplatform.googleapis.com",
            "europe-west4",
        ),
    ],
)
def test_a_provider_has_words_of_its_own_and_some_an_address(
    provider: str, url: str | None, schema: Schema, host: str, region: str
) -> None:
    server = upstream_of(read_backend(backend=outside("there", provider=provider, url=url)))
    assert (server.schema, server.host, server.region) == (schema, host, region)


def test_a_model_is_asked_for_by_the_providers_name_with_the_key_of_a_secret() -> None:
    backend = outside("there", external={"model": "gpt-5", "credentialsSecretRef": {"name": "key"}})
    found = read_backend(backend=backend)
    assert (found.model, upstream_of(found).secret, found.health_path) == ("gpt-5", "key", "")


@pytest.mark.parametrize(
    "provider, url, said",
    [
        ("litellm", None, "has no url"),
        ("bedrock", None, "has no url"),
        ("vertex_ai", "  ", "has no url"),
        ("openai", "api.openai.com", "neither http:// nor https://"),
        ("openai", "ftp://x/", "neither http:// nor https://"),
        ("openai", "https://", "host"),
        ("openai", "https://x:0/", "port"),
        ("openai", "https://x:99999/", "port"),
        ("openai", "https://[::1/", "url"),
        ("openai", "https://x/v1?key=1", "query"),
        ("openai", "https://x/ä", "path"),
    ],
)
def test_what_is_no_address_is_refused(provider: str, url: str | None, said: str) -> None:
    finding = refused(router(backends=[outside("there", provider=provider, url=url)], rules=[rule("there")]))
    assert (finding.code, finding.origin.field) == ("ReconcileFailed", "spec.backends[0].external.url")
    assert said in finding.message


@pytest.mark.parametrize("url", ["https://me:hunter2@llm.example.com/", "https://me:hunter2@[::1/"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    finding = refused(router(backends=[outside("there", url=url)], rules=[rule("there")]))
    assert "hunter2" not in finding.message + finding.fix


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1?key=sk-secretq",
        "ftp://api.openai.com/v1?key=sk-secretq",
        "https://[::1/?key=sk-secretq",
        "https://api.openai.com:0/v1#sk-secretq",
        "https://u:sk-secretq/x@api.openai.com/v1",
    ],
)
def test_nor_is_a_key_in_it(url: str) -> None:
    finding = refused(router(backends=[outside("there", url=url)], rules=[rule("there")]))
    assert finding.code == "ReconcileFailed" and "sk-secretq" not in finding.message + finding.fix


def test_nor_one_in_the_place_of_its_secrets_name() -> None:
    ref = {"name": f"sk-proj-{'secretq' * 5}"}
    finding = refused(
        router(backends=[outside("there", external={"credentialsSecretRef": ref})], rules=[rule("there")])
    )
    assert finding.fix == "put the key into a Secret and name that in credentialsSecretRef"
    assert "secretq" not in finding.message


# --- may sensitive requests go there?


def sensitive(backend: dict[str, Any], *, metadata: Any = None) -> Any:
    written = rule(backend["name"], match=SENSITIVE, failClosed=True)
    return router(backends=[backend], rules=[written], metadata=metadata)


HOME = "http://192.168.1.47:8083/v1"


@pytest.mark.parametrize("more", [{}, {"tier": "cloud"}], ids=["no tier", "cloud"])
@pytest.mark.parametrize("url", [None, HOME], ids=["provider", "home"])
def test_what_is_outside_is_a_cloud_unless_somebody_says_otherwise(
    url: str | None, more: dict[str, str]
) -> None:
    finding = refused(sensitive(outside("there", url=url, **more)))
    assert (finding.code, finding.origin.field) == ("UnsafeSensitiveRoute", "spec.rules[0].route.backends")


def test_in_a_file_the_word_local_counts() -> None:
    assert read_backend(backend=outside("there", url=HOME, tier="local")).local


def test_in_a_cluster_the_word_local_may_be_the_api_servers_and_counts_for_private_addresses() -> None:
    live = {"is_live": True, "claim": True}
    assert read_backend(backend=outside("there", url=HOME, tier="local"), **live).local
    finding = refused(sensitive(outside("there", tier="local")), **live)
    assert finding.code == "UnsafeSensitiveRoute" and "fleet-epp.dev/local-backends" in finding.message


def test_an_annotation_says_which_servers_outside_are_the_sites_own() -> None:
    ours = {"annotations": {"fleet-epp.dev/local-backends": "other, there"}}
    asked = sensitive(outside("there", url="https://llm.example.com", tier="local"), metadata=ours)
    (found,) = read(asked, is_live=True, claim=True).routers
    assert found.rules[0].backends[0].local


def test_a_cloud_is_fine_for_what_is_not_sensitive() -> None:
    assert not read_backend(backend=outside("there")).local


# --- round and round


@pytest.mark.parametrize(
    "host, is_told", [("192.0.2.7", True), ("ai.example.com", True), ("192.0.2.8", False)]
)
def test_a_backend_that_is_the_gateway_itself_is_told(host: str, is_told: bool) -> None:
    gateway = document(
        "Gateway",
        "ai-gateway",
        {"listeners": [{"name": "http", "port": 80, "hostname": "ai.example.com"}]},
        api="gateway.networking.k8s.io/v1",
        metadata={"namespace": "edge"},
        status={"addresses": [{"value": "192.0.2.7"}]},
    )
    asked = router(backends=[outside("there", url=f"http://{host}")], rules=[rule("there")])
    reading = read(gateway, asked)
    assert reading.routers
    assert [one.code for one in reading.findings] == (["LeadsBack"] if is_told else [])
