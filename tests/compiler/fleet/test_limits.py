"""How much, and which words, a fleet file may say: what gateways and the API server refuse is told first."""

import pytest

from tests.compiler.fleet.reading import live, read, told

SITE = """
models:
- {name: qwen, aliases: [small], servedAs: "*", pods: {app: q}}
- {name: llama-3.3, pods: {app: l}}
"""


@pytest.mark.parametrize("count, is_refused", [(256, False), (257, True)])
def test_there_are_at_most_256_machines(count: int, *, is_refused: bool) -> None:
    """Of a model; what is more belongs behind a Service."""
    hosts = ", ".join(f"10.0.{one // 250}.{one % 250 + 1}" for one in range(count))
    found = told(f"models: [{{name: a, hosts: [{hosts}]}}]")
    assert [line.startswith("models[a].hosts SpecInvalid: must be at most 256") for line in found] == [
        True
    ] * is_refused


@pytest.mark.parametrize(
    "auth, what",
    [
        ("{issuer: i, jwks: idp.example.com/keys}", "auth.jwks"),
        ("{issuer: i, jwks: 'ftp://idp.example.com/keys'}", "auth.jwks"),
        ("{issuer: 'a b', jwks: 'https://idp.example.com/keys'}", "auth.issuer"),
        ("{issuer: i, jwks: 'https://idp.example.com/keys', header: x team}", "auth.header"),
        ("{issuer: i, jwks: 'https://idp.example.com/keys', claim: a team}", "auth.claim"),
    ],
)
def test_what_a_gateway_would_refuse_of_tokens_is_told_at_its_place(auth: str, what: str) -> None:
    """Its whole policy would be refused, and every router on it open or dead."""
    found = told(f"models: [{{name: a, pods: {{a: b}}}}]\nauth: {auth}")
    assert len(found) == 1 and what.partition(".")[2] in found[0] and found[0].startswith("auth")
    assert not live(f"models: [{{name: a, pods: {{a: b}}}}]\nauth: {auth}")


@pytest.mark.parametrize(
    "auth",
    [
        "{issuer: 'https://u:secretq@idp', jwks: 'https://idp/keys'}",
        "{issuer: i, jwks: 'https://u:secretq@idp/keys'}",
        "{issuer: i, jwks: 'ftp://idp/keys?token=secretq'}",
        "{issuer: 'a b?secretq', jwks: 'https://idp/keys'}",
    ],
)
def test_a_password_or_a_key_of_the_issuer_is_not_repeated(auth: str) -> None:
    (found,) = told(f"models: [{{name: a, pods: {{a: b}}}}]\nauth: {auth}")
    assert found.startswith("auth") and "secretq" not in found


def test_keys_may_need_a_token_themselves() -> None:
    auth = "auth: {issuer: i, jwks: 'https://idp/keys?token=abc'}"
    assert live(f"models: [{{name: a, pods: {{a: b}}}}]\n{auth}") == {"a"}


@pytest.mark.parametrize(
    "entry, what",
    [
        ("{name: a, pods: {a: b}, port: [1, 2, 3, 4, 5, 6, 7, 8, 9]}", "port: must be at most 8 different"),
        ("{name: a, pods: {a: b}, port: [81, 81]}", "port: must be at most 8 different"),
        ("{name: a, hosts: [{name: m, address: 'not an address'}]}", "address"),
    ],
)
def test_what_no_pool_can_have_is_told(entry: str, what: str) -> None:
    (found,) = told(f"models: [{entry}]")
    assert found.startswith("models[a]") and what.rpartition(": ")[2] in found


def test_a_pool_may_have_eight_ports() -> None:
    assert told("models: [{name: a, pods: {a: b}, port: [1, 2, 3, 4, 5, 6, 7, 8]}]") == []


def test_priorities_are_of_32_bits() -> None:
    """As an InferenceObjective's is: the API server refuses any other."""
    for value in (2**31 - 1, -(2**31)):
        objectives = read(SITE, f"priorities: {{batch: {value}}}").objectives
        assert [one.priority for one in objectives] == [value] * 2
    for value in (2**31, -(2**31) - 1):
        assert "must be 32-bit numbers" in "".join(told(SITE, f"priorities: {{batch: {value}}}"))
