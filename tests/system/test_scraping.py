"""Reading servers' load as files say: renamed series, HTTPS with an authority of one's own, API keys.

The default driver only: who speaks HTTP/2 with the gateway does not matter here.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.rig.llama import LlamaServer
from bench.rig.picker import PROFILE, Picker
from bench.rig.process import free_port, wait_until
from tests.system.certificates import Authority
from tests.system.gate import Gate
from tests.system.talk import (
    channel_to,
    chat,
    converse,
    destination,
    endpoints,
    reachability,
    request_body,
    request_headers,
    wait_reachable,
)


def entry(name: str, port: int, **more: object) -> dict[str, object]:
    return {"name": name, "address": "127.0.0.1", "port": port, **more}


def chosen(picker: Picker) -> str:
    """Where a request is sent."""
    with channel_to(picker) as channel:
        return destination(next(converse(channel, [request_headers(), request_body(chat())])))


# --- what series are called --------------------------------------------------------------------------

OURS = b"""\
# TYPE work_queue gauge
work_queue{state="waiting",shard="a"} 3
work_queue{state="waiting",shard="b"} 4
work_queue{state="active"} 2
cache_fill_ratio 0.25
adapters_info{max_lora="4",running_lora_adapters="l0,l1",waiting_lora_adapters="l2"} 1795165000
vllm:num_requests_waiting 99
"""
FORK = b"fork:waiting 5\nfork:running 6\nvllm:num_requests_waiting 99\nvllm:num_requests_running 99\n"
NAMES = {
    "plugins": [
        {"type": "metrics-data-source"},
        {
            "type": "core-metrics-extractor",
            "parameters": {
                "engineLabelKey": "example.com/serves",
                "engineConfigs": [
                    {
                        "name": "ours",
                        "queuedRequestsSpec": "work_queue{state=waiting}",
                        "runningRequestsSpec": "work_queue{state=active}",
                        "kvUsageSpec": "cache_fill_ratio",
                        "loraSpec": "adapters_info",
                    },
                    {
                        "name": "sglang",
                        "queuedRequestsSpec": "fork:waiting",
                        "runningRequestsSpec": "fork:running",
                    },
                    {
                        "name": "llama-busy",
                        "queuedRequestsSpec": "llamacpp:requests_deferred",
                        "runningRequestsSpec": "llamacpp:tokens_predicted_total",
                    },
                ],
            },
        },
        *PROFILE["plugins"],
    ],
    "schedulingProfiles": PROFILE["schedulingProfiles"],
    "dataLayer": {
        "sources": [
            {"pluginRef": "metrics-data-source", "extractors": [{"pluginRef": "core-metrics-extractor"}]}
        ]
    },
}


@pytest.fixture(scope="module")
def named(logs: Path, _servers: list[LlamaServer]) -> Iterator[Picker]:
    """Servers whose series have other names, known by label, by ``engine`` or by looking."""
    with Gate() as ours, Gate() as fork, Gate() as usual:
        ours.page, fork.page = OURS, FORK
        listed = [
            entry("ours", ours.port, labels={"example.com/serves": "ours"}),
            entry("fork", fork.port, engine="sglang"),
            entry("usual", usual.port),
            entry("llama", _servers[0].port, labels={"example.com/serves": "llama-busy"}),
        ]
        with Picker(logs=logs, name="picker-named", endpoints=listed, config=NAMES) as picker:
            wait_reachable(picker, dict.fromkeys(("ours", "fork", "usual", "llama"), "up"))
            yield picker


def load(picker: Picker, name: str) -> dict[str, Any]:
    found: dict[str, Any] = endpoints(picker)[name]["load"]
    return found


def test_series_are_read_by_the_names_that_the_file_gives_them(named: Picker) -> None:
    read = load(named, "ours")
    assert (read["waiting"], read["running"], read["kv_usage"]) == (7, 2, 0.25)
    assert read["lora"] == {"running": ["l0", "l1"], "waiting": ["l2"], "max_adapters": 4}


def test_an_engine_of_the_file_takes_the_place_of_the_built_in_one(named: Picker) -> None:
    read = load(named, "fork")
    assert (read["waiting"], read["running"], read["kv_usage"]) == (5, 6, None)


def test_a_server_that_the_file_does_not_name_is_known_by_looking(named: Picker) -> None:
    assert endpoints(named)["usual"]["engine"] == "vllm"
    assert load(named, "usual")["waiting"] == 0


def test_a_real_server_is_read_by_given_names(named: Picker, servers: list[LlamaServer]) -> None:
    made = servers[0].metrics()["llamacpp:tokens_predicted_total"]
    wait_until(lambda: load(named, "llama")["running"] == made, what=f"{made} read")
    assert endpoints(named)["llama"]["engine"] == "llama-busy"


def test_what_is_read_so_decides(named: Picker, servers: list[LlamaServer]) -> None:
    """The shortest queues win, not those with the shortest series of a name that means nothing here."""
    shown = endpoints(named)
    assert chosen(named) in {shown[name]["address"] for name in ("usual", "llama")}


# --- https -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class House:
    picker: Picker
    gates: dict[str, Gate]


TLS: dict[str, tuple[dict[str, str], str, str]] = {
    # of the entry; which server; what is said when it is down
    "believed": ({"scheme": "https"}, "ours", ""),
    "self-signed-believed": ({"scheme": "https"}, "self-signed", ""),
    "verified": ({"scheme": "https", "caFile": "ours.crt"}, "ours", ""),
    "by-name": ({"scheme": "https", "caFile": "ours.crt", "address": "localhost"}, "ours", ""),
    "with-key": ({"scheme": "https", "caFile": "ours.crt", "apiKeyFile": "the.key"}, "ours", ""),
    "elsewhere": ({"metricsURL": "https://127.0.0.1:{ours}/metrics?of=another"}, "plain", ""),
    "wrong-authority": ({"scheme": "https", "caFile": "theirs.crt"}, "ours", "certificate"),
    "self-signed": ({"scheme": "https", "caFile": "ours.crt"}, "self-signed", "certificate"),
    "other-name": ({"scheme": "https", "caFile": "ours.crt"}, "other-name", "127.0.0.1"),
    "not-https": ({"scheme": "https"}, "llama", "does not speak TLS: set scheme: http"),
    "https-unannounced": ({}, "ours", "answers TLS: set scheme: https"),
}
DOWN = [name for name, (_, _, said) in TLS.items() if said]


@pytest.fixture(scope="module")
def house(logs: Path, _servers: list[LlamaServer]) -> Iterator[House]:
    ours, _, itself = (Authority(logs, name) for name in ("ours", "theirs", "itself"))
    (logs / "the.key").write_text("sesame\n")
    contexts = {
        "ours": ours.server("localhost", "127.0.0.1"),
        "other-name": ours.server("elsewhere.test"),
        "self-signed": itself.server("localhost", "127.0.0.1"),
        "plain": None,
    }
    with ExitStack() as stack:
        gates = {name: stack.enter_context(Gate(tls=context)) for name, context in contexts.items()}
        ports = {"llama": _servers[0].port} | {name: gate.port for name, gate in gates.items()}
        listed = [
            entry(name, ports[server], **_filled(more, ports)) for name, (more, server, _) in TLS.items()
        ]
        picker = stack.enter_context(Picker(logs=logs, name="picker-https", endpoints=listed))
        yield House(picker, gates)


def _filled(more: dict[str, str], ports: dict[str, int]) -> dict[str, str]:
    return {key: value.format(**ports) for key, value in more.items()}


@pytest.mark.parametrize("name", [name for name in TLS if name not in DOWN])
def test_a_server_is_read_over_https(name: str, house: House) -> None:
    wait_until(lambda: reachability(house.picker)[name] == "up", what=f"{name} up")
    wait_until(lambda: load(house.picker, name)["waiting"] == 0, what=f"{name} read")
    assert endpoints(house.picker)[name]["engine"] == "vllm"


@pytest.mark.parametrize("name", DOWN)
def test_a_server_that_cannot_be_trusted_or_understood_is_no_candidate(name: str, house: House) -> None:
    wait_until(lambda: reachability(house.picker)[name] == "down", what=f"{name} down")
    shown = endpoints(house.picker)[name]
    assert TLS[name][2] in shown["reason"], shown["reason"]
    assert shown["load"]["waiting"] is None


def test_the_key_goes_only_where_it_belongs(house: House) -> None:
    wait_until(lambda: reachability(house.picker)["with-key"] == "up", what="read with its key")
    heads = [head.lower() for head in house.gates["ours"].heads]
    assert any(b"authorization: bearer sesame" in head for head in heads)
    assert any(b"authorization" not in head for head in heads)
    for other in ("plain", "self-signed", "other-name"):
        assert not any(b"authorization" in head.lower() for head in house.gates[other].heads)


def test_the_metrics_url_is_asked_as_it_is_written(house: House) -> None:
    wait_until(lambda: reachability(house.picker)["elsewhere"] == "up", what="read elsewhere")
    assert any(head.startswith(b"GET /metrics?of=another ") for head in house.gates["ours"].heads)


def test_requests_go_only_where_the_load_could_be_read(house: House) -> None:
    wanted = {name: "down" if name in DOWN else "up" for name in TLS}
    wait_reachable(house.picker, wanted)
    shown = endpoints(house.picker)
    alive = {shown[name]["address"] for name in TLS if name not in DOWN}
    assert {chosen(house.picker) for _ in range(10)} <= alive


def test_a_certificate_authority_that_is_put_right_is_used(logs: Path) -> None:
    authority, other = Authority(logs, "late"), Authority(logs, "early")
    certificate = authority.file.read_text()
    authority.file.write_text(other.file.read_text())
    with Gate(tls=authority.server("127.0.0.1")) as gate:
        listed = [entry("late", gate.port, scheme="https", caFile="late.crt")]
        with Picker(logs=logs, name="picker-late", endpoints=listed) as picker:
            wait_reachable(picker, {"late": "down"})
            authority.file.write_text(certificate)
            wait_reachable(picker, {"late": "up"})


STRICT = {
    **PROFILE,
    "plugins": [
        {"type": "metrics-data-source", "parameters": {"scheme": "https", "insecureSkipVerify": False}},
        *PROFILE["plugins"],
    ],
}


@pytest.mark.parametrize("authority", ["", "caCertPath"])
def test_the_file_can_ask_for_certificates_that_are_vouched_for(authority: str, logs: Path) -> None:
    """Of servers that say nothing of it themselves: nobody vouches for this one, unless the file does."""
    ours = Authority(logs, f"strict-{authority}")
    config = json.loads(json.dumps(STRICT))
    if authority:
        config["plugins"][0]["parameters"]["caCertPath"] = str(ours.file)
    with Gate(tls=ours.server("127.0.0.1")) as gate:
        listed = [entry("strict", gate.port)]
        with Picker(logs=logs, name=f"picker-strict-{authority}", endpoints=listed, config=config) as picker:
            wait_reachable(picker, {"strict": "up" if authority else "down"})


def test_a_dead_server_behind_https_is_seen_like_any_other(logs: Path) -> None:
    ours = Authority(logs, "mortal")
    with Gate() as survivor:
        port = free_port()
        listed = [
            entry("mortal", port, scheme="https", caFile="mortal.crt"),
            entry("survivor", survivor.port),
        ]
        with Picker(logs=logs, name="picker-mortal", endpoints=listed) as picker:
            wait_reachable(picker, {"mortal": "down", "survivor": "up"})
            with Gate(tls=ours.server("127.0.0.1"), port=port):
                wait_reachable(picker, {"mortal": "up", "survivor": "up"})
            wait_reachable(picker, {"mortal": "down", "survivor": "up"})
            assert chosen(picker) == survivor.address
