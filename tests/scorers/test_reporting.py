"""What gateways and clients are told of a response: request-attribute-reporter, the served verifier."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.decode import ConfigError, parse, read
from epp.core.scoring import Usage
from scorers.destination_endpoint_served_verifier import DestinationEndpointServedVerifier
from scorers.request_attribute_reporter import RequestAttributeReporter

USAGE = Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=64, total_tokens=120)


def reporter(expression: str, condition: str = "", namespace: str = "envoy.lb") -> RequestAttributeReporter:
    text = f'attributes: [{{key: {{name: cost, namespace: {namespace}}}, expression: "{expression}"'
    return read(parse(f'{text}, condition: "{condition}"}}]', "c.yaml"), RequestAttributeReporter)


@pytest.mark.parametrize(
    "expression, condition, value",
    [
        ("usage.prompt_tokens + usage.completion_tokens", "", 120),
        # what was worked on: 100 - 64 of the prompt, and the output at three times its price
        (
            "usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens + usage.completion_tokens * 3",
            "",
            96,
        ),
        ("usage.total_tokens / 7", "", 17),
        ("usage.total_tokens", "has(usage.completion_tokens)", 120),
        ("usage.total_tokens", "usage.completion_tokens > 20", None),
        ("1.0 / (usage.prompt_tokens - 100)", "", None),
    ],
)
def test_what_a_request_has_cost(expression: str, condition: str, value: int | None) -> None:
    told = reporter(expression, condition).report(USAGE)
    assert told == ({} if value is None else {"envoy.lb": {"cost": value}})


def test_another_namespace() -> None:
    assert reporter("1", namespace="billing").report(USAGE) == {"billing": {"cost": 1}}


@pytest.mark.parametrize("usage", [None, Usage(), Usage(prompt_tokens=1)])
def test_what_is_not_known_is_not_reported(usage: Usage | None) -> None:
    assert reporter("usage.completion_tokens").report(usage) == {}


def test_without_usage_nothing_is_reported_not_even_what_needs_none() -> None:
    assert reporter("1").report(Usage()) == {"envoy.lb": {"cost": 1}}
    assert reporter("1").report(None) == {}


def test_several_attributes() -> None:
    entry = "{{key: {{name: {0}}}, expression: usage.{0}_tokens}}"
    text = f"attributes: [{entry.format('prompt')}, {entry.format('completion')}]"
    found = read(parse(text, "c.yaml"), RequestAttributeReporter).report(Usage(prompt_tokens=3))
    assert found == {"envoy.lb": {"prompt": 3}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("attributes: []", "attributes: must name at least one"),
        ("attributes: [{key: {name: a}, expression: ''}]", "attributes[0].expression: must not be empty"),
        ("attributes: [{key: {name: ''}, expression: '1'}]", "attributes[0].key.name: must not be empty"),
        ("attributes: [{expression: '1'}]", 'attributes[0]: "key" is missing'),
        (
            "attributes: [{key: {name: a}, expression: usage.prompt_token}]",
            "attributes[0].expression: there is no usage.prompt_token, there are usage.prompt_tokens, ",
        ),
        (
            "attributes: [{key: {name: a}, expression: '1 +'}]",
            "attributes[0].expression: ends where a value is expected",
        ),
        (
            "attributes: [{key: {name: a}, expression: 'true'}]",
            "attributes[0].expression: must be a number, is",
        ),
        (
            "attributes: [{key: {name: a}, expression: '1', condition: '1'}]",
            "attributes[0].condition: must be true or false, is 1",
        ),
        (
            "attributes: [{key: {name: a}, expression: 'usage.prompt_tokens % 2'}]",
            "attributes[0].expression: has no value: % takes whole numbers",
        ),
        (
            "attributes: [{key: {name: a}, expression: '1'}, {key: {name: a}, expression: '2'}]",
            'attributes: "a" of envoy.lb is there twice',
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_at_the_start(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(parse(text, "c.yaml"), RequestAttributeReporter)
    assert str(raised.value).startswith(f"c.yaml:1: {message}")


COUNTS = st.none() | st.integers(0, 1 << 53)


@given(usage=st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS))
def test_any_usage_is_whole_numbers_or_nothing(usage: Usage) -> None:
    plugin = reporter("usage.total_tokens / usage.prompt_tokens", "has(usage.prompt_tokens)")
    for values in plugin.report(usage).values():
        assert all(isinstance(value, int) for value in values.values())


@pytest.mark.parametrize(
    "served, told",
    [
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        (None, "fail: missing destination endpoint served metadata"),
        ("", "fail: missing destination endpoint served metadata"),
    ],
)
def test_who_served_is_told(served: Any, told: str) -> None:
    headers = DestinationEndpointServedVerifier().served_header(served)
    assert headers == {"x-conformance-test-served-endpoint": told}
