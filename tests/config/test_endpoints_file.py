"""The list of servers: what is read from it, and what is said about mistakes."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.decode import ConfigError
from epp.config.endpoints_file import TIER_LABEL, EndpointEntry, parse_endpoints
from epp.config.picker_config import DEFAULT_TEXT
from epp.core.addresses import MetricsUrl


def one(fields: str, **options: object) -> EndpointEntry:
    (entry,) = parse_endpoints(f"endpoints:\n- {{{fields}}}\n", "f.yaml", **options)  # type: ignore[arg-type]
    return entry


def test_upstreams_example_reads_as_upstream_reads_it() -> None:
    text = """\
endpoints:
- {name: vllm-0, address: 10.0.0.11, port: "8000"}
- name: vllm-1
  namespace: team-a
  address: 10.0.0.12
  port: 8000
  labels: {llm-d.ai/role: decode}
"""
    assert parse_endpoints(text, "f.yaml") == (
        EndpointEntry(name="vllm-0", namespace="default", address="10.0.0.11", port=8000, is_literal=True),
        EndpointEntry(
            name="vllm-1",
            namespace="team-a",
            address="10.0.0.12",
            port=8000,
            is_literal=True,
            labels={"llm-d.ai/role": "decode"},
        ),
    )


def test_an_entry_can_say_all_that_upstream_cannot() -> None:
    entry = one(
        "name: s, address: Studio.Local., port: 443, scheme: https, engine: vllm, caFile: ca.pem,"
        ' apiKeyFile: /run/key, metricsURL: "http://studio.local:9400/metrics"',
        engines=("vllm", "sglang"),
    )
    assert (entry.address, entry.is_literal, entry.scheme, entry.engine) == (
        "studio.local",
        False,
        "https",
        "vllm",
    )
    assert (entry.ca_file, entry.api_key_file) == ("ca.pem", "/run/key")
    assert entry.metrics_url == MetricsUrl("http", "studio.local", 9400, "/metrics")


@pytest.mark.parametrize(
    "written, read, is_literal",
    [
        ("10.0.0.1", "10.0.0.1", True),
        ('"2001:db8::0:1"', "2001:db8::1", True),
        ('"[::1]"', "::1", True),
        ("gpu-0", "gpu-0", False),
        ("gpu_0.lan", "gpu_0.lan", False),
    ],
)
def test_addresses(written: str, read: str, is_literal: bool) -> None:
    entry = one(f"name: a, port: 1, address: {written}")
    assert (entry.address, entry.is_literal) == (read, is_literal)


def test_the_pools_namespace_is_the_default() -> None:
    assert one("name: a, port: 1, address: 10.0.0.1", default_namespace="pool").namespace == "pool"


@pytest.mark.parametrize(
    "fields, tier",
    [
        ("", 0),
        (", tier: 2", 2),
        (', labels: {fleet-epp.dev/tier: "2"}', 2),
        (', tier: 0, labels: {fleet-epp.dev/tier: "0"}', 0),
        (', tier: 7, labels: {fleet-epp.dev/tier: "07"}', 7),
    ],
)
def test_a_tier_is_a_field_or_a_label(fields: str, tier: int) -> None:
    assert one("name: a, port: 1, address: 10.0.0.1" + fields).tier == tier


GOOD = "name: a, address: 10.0.0.1, port: 80"


@pytest.mark.parametrize(
    "text, message",
    [
        pytest.param("", "f.yaml: is empty", id="empty"),
        pytest.param("{}", 'f.yaml:1: "endpoints" is missing', id="no list"),
        pytest.param("endpoints: {}", "f.yaml:1: endpoints: expected a list", id="not a list"),
        pytest.param("servers: []", "servers: unknown field", id="unknown top field"),
        pytest.param("endpoints: [", ": is not valid YAML: ", id="syntax"),
        pytest.param(
            "endpoints:\n\t- {name: a}",
            "f.yaml:2: is not valid YAML: there is a tab, indent with spaces",
            id="tab",
        ),
        *(
            pytest.param(
                f"endpoints:\n- {{name: a, address: {address}, port: 80}}",
                ": quote values that hold a colon",
                id=f"unquoted {address}",
            )
            for address in ("::1", "[::1]", "fe80::")
        ),
        pytest.param(
            'endpoints:\n- {name: a, address: b, port: "80 "}',
            'f.yaml:2: endpoints[0].port: must be from 1 to 65535, got "80 "',
            id="port with a space",
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, lables: {{}}}}",
            'f.yaml:2: endpoints[0].lables: unknown field, did you mean "labels"?',
            id="misspelt",
        ),
        pytest.param(
            "endpoints:\n- {name: a, port: 1}", 'f.yaml:2: endpoints[0]: "address" is missing', id="missing"
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}}}\n- {{{GOOD}}}",
            'f.yaml:3: endpoints[1].name: "a" is there twice in namespace "default", first in line 2',
            id="twice",
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, engine: vlm}}",
            'unknown engine "vlm", did you mean "vllm"?',
            id="engine",
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, labels: {{a: 1}}}}", "put it in quotes", id="label not a string"
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, scheme: ftp}}", 'expected one of "http", "https"', id="scheme"
        ),
        pytest.param(f"endpoints:\n- {{{GOOD}, metricsURL: /m}}", "must be a whole URL", id="metrics url"),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, caFile: ca.pem}}", 'no use without "scheme: https"', id="ca and http"
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, tier: 1000}}",
            "f.yaml:2: endpoints[0].tier: must be from 0 (used first) to 999, got 1000",
            id="tier",
        ),
        pytest.param(
            f"endpoints:\n- {{{GOOD}, tier: -1}}",
            "f.yaml:2: endpoints[0].tier: must be from 0 (used first) to 999, got -1",
            id="negative tier",
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, labels: {{fleet-epp.dev/tier: "٣"}}}}',
            'f.yaml:2: endpoints[0].labels: fleet-epp.dev/tier must be from "0" to "999", got "٣"',
            id="digits of another script",
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, labels: {{fleet-epp.dev/tier: "gold"}}}}',
            'f.yaml:2: endpoints[0].labels: fleet-epp.dev/tier must be from "0" to "999", got "gold"',
            id="tier in a label",
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, tier: 1, labels: {{fleet-epp.dev/tier: "2"}}}}',
            "f.yaml:2: endpoints[0].tier: is 1, but the label fleet-epp.dev/tier says 2; keep one of them",
            id="two tiers",
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, apiKeyFile: ""}}', "apiKeyFile: must not be empty", id="no key file"
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, scheme: https, caFile: ""}}',
            "caFile: must not be empty, leave it out",
            id="no ca file",
        ),
        pytest.param(
            f'endpoints:\n- {{{GOOD}, namespace: "a b"}}',
            "f.yaml:2: endpoints[0].namespace: must be ",
            id="namespace with a space",
        ),
    ],
)
def test_a_mistake_names_file_line_field_and_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoints(text, "f.yaml", engines=("vllm", "llama.cpp"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_is_known_for_what_it_is() -> None:
    with pytest.raises(
        ConfigError, match=r"^f\.yaml:1: is a configuration, not a list of servers: give it as --conf"
    ):
        parse_endpoints(DEFAULT_TEXT, "f.yaml")


def test_each_ca_file_is_checked_as_it_is_written() -> None:
    def check(file: str) -> None:
        if file != "good.pem":
            raise ValueError("no such file")

    entries = [
        f"- {{name: {name}, address: a, port: 1, scheme: https, caFile: {name}.pem}}"
        for name in ("good", "bad")
    ]
    with pytest.raises(ConfigError, match=r"^f\.yaml:3: endpoints\[1\]\.caFile: no such file$"):
        parse_endpoints("\n".join(["endpoints:", *entries]), "f.yaml", check_ca_file=check)


@pytest.mark.parametrize(
    "address, message",
    [
        ("10.0.0.256", "is no IPv4 address"),
        ("10.0.0.1:8000", 'write "port" as a field'),
        ("gpu-0:8000", 'write "port" as a field'),
        ("[::1]:8000", 'write "port" as a field'),
        ("http://gpu-0", 'write "scheme" and "port"'),
        ("fe80::1%eth0", "zones"),
        ("0.0.0.0", "not the address of one server"),
        ("a b", "neither an IP address nor a host name"),
        ("", "neither an IP address nor a host name"),
        ("-x", "neither an IP address nor a host name"),
    ],
)
def test_what_is_no_address(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml:2: endpoints\[0\]\.address: ") as caught:
        one(f"name: a, port: 1, address: {json.dumps(address)}")
    assert message in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", '"http"', '""', '"1 "', "-1", "1.5"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(ConfigError, match=r"endpoints\[0\]\.port"):
        one(f"name: a, address: 10.0.0.1, port: {port}")


@pytest.mark.parametrize(
    "url, message",
    [
        ("/m", "must be a whole URL"),
        ("http://[::1/metrics", "must be a whole URL"),
        ("http://münchen:9/m", '"münchen" is neither an IP address nor a host name'),
        ("http://a℀b:9/m", '"a℀b" is neither an IP address nor a host name'),
        ("http://h:9/→", "its path has characters that no request may have"),
        (f"http://{'h' * 64}:9/m", "is neither an IP address nor a host name"),
    ],
)
def test_what_is_no_metrics_url(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml:2: endpoints\[0\]\.metricsURL: ") as caught:
        one(f"{GOOD}, metricsURL: {json.dumps(url)}")
    assert message in str(caught.value)


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
ENTRY = st.fixed_dictionaries(
    {
        "name": WORD,
        "address": st.ip_addresses()
        .filter(lambda ip: not ip.is_unspecified and not ip.is_multicast)
        .map(str),
        "port": st.one_of(st.integers(1, 65535), st.integers(1, 65535).map(str)),
    },
    optional={
        "namespace": WORD,
        "labels": st.dictionaries(WORD, WORD, max_size=3),
        "scheme": st.sampled_from(["http", "https"]),
        "tier": st.integers(0, 999),
    },
)


@given(
    entries=st.lists(
        ENTRY, max_size=6, unique_by=lambda entry: (entry.get("namespace", "default"), entry["name"])
    )
)
def test_what_is_written_is_what_is_read(entries: list[dict[str, object]]) -> None:
    read = parse_endpoints(json.dumps({"endpoints": entries}, ensure_ascii=False), "f.yaml")
    assert [(e.name, e.port) for e in read] == [(w["name"], int(str(w["port"]))) for w in entries]
    assert [dict(e.labels) for e in read] == [w.get("labels", {}) for w in entries]
    assert [e.tier for e in read] == [w.get("tier", 0) for w in entries]


@given(tier=st.none() | st.integers(-2, 1001), label=st.none() | st.text("0123456789x-", max_size=5))
def test_any_tier_is_one_of_a_thousand_or_is_refused(tier: int | None, label: str | None) -> None:
    entry: dict[str, object] = {"name": "a", "address": "10.0.0.1", "port": 1}
    entry |= {} if tier is None else {"tier": tier}
    entry |= {} if label is None else {"labels": {TIER_LABEL: label}}
    text = json.dumps({"endpoints": [entry]})
    said = [number for number in (tier, _number(label)) if number is not None]
    is_good = all(0 <= number <= 999 for number in said) and len(set(said)) < 2
    if is_good and (label is None or _number(label) is not None):
        (read,) = parse_endpoints(text, "f.yaml")
        assert read.tier == (said[0] if said else 0)
    else:
        assert re.match(r"f\.yaml:1: endpoints\[0\]\.(tier|labels): ", complaint(text))


def _number(label: str | None) -> int | None:
    return int(label) if label and label.isdigit() and len(label) < 4 else None


def complaint(text: str) -> str:
    try:
        parse_endpoints(text, "f.yaml")
    except ConfigError as error:
        return str(error)
    return "f.yaml: nothing to complain about"


@given(
    text=st.text(max_size=200),
    insert=st.sampled_from(["", "endpoints:\n- ", "endpoints: [{name: a, address: "]),
)
def test_any_text_is_a_list_or_one_line(text: str, insert: str) -> None:
    said = complaint(insert + text)
    assert said.startswith("f.yaml")
    assert "\n" not in said
