"""Several profiles for one request: handlers, deciders, what is booked where and what the server is told."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.picker_config import build, load
from epp.core.apis import parse
from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load
from epp.core.rejection import Code, Rejection
from epp.core.request import Api, Payload, Request
from epp.core.scheduling import Decision, Scheduler, describe
from epp.core.scoring import PrefixMatch
from scorers.always_disagg_multimodal_decider import AlwaysDisaggMultimodalDecider
from scorers.always_disagg_pd_decider import AlwaysDisaggPdDecider
from scorers.prefix_based_pd_decider import PrefixBasedPdDecider
from tests.picking import TYPES, cycle_of, endpoints_of, prompt_of

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
ROLES = {"d0": "decode", "d1": "decode", "p0": "prefill", "p1": "prefill", "e0": "encode", "e1": "encode"}
LONG, SHORT = "word " * 1000, "word"


def pool(roles: Mapping[str, str] = ROLES, **labels: Mapping[str, str]) -> Fleet:
    fleet = Fleet(stale_after=1e9)
    fleet.replace(
        (
            EndpointSpec(
                name=name,
                ip=f"10.0.0.{i + 1}",
                port=8000,
                labels={"llm-d.ai/role": role, **labels.get(name, {})},
            )
            for i, (name, role) in enumerate(roles.items())
        ),
        0.0,
    )
    for endpoint in fleet.endpoints:
        fleet.answered(endpoint, 0.0)
    return fleet


def scheduler(text: str, fleet: Fleet, **settings: Any) -> Scheduler:
    assembly = build(load(HEAD + text, "c.yaml"), TYPES, allow_experimental=True)
    return Scheduler(
        fleet,
        assembly.profile,
        assembly.producers,
        others=assembly.others,
        handler=assembly.handler,
        chance=random.Random(0),
        **settings,
    )


def decided(result: Decision | Rejection) -> Decision:
    assert isinstance(result, Decision), result
    return result


def named(fleet: Fleet, name: str) -> Endpoint:
    return next(endpoint for endpoint in fleet.endpoints if endpoint.name == name)


def picks(decision: Decision) -> dict[str, list[str]]:
    found = decision.picks or {}
    return {profile: [endpoint.name for endpoint in picked] for profile, picked in found.items()}


DISAGGREGATED = """\
plugins:
- {type: disagg-profile-handler, parameters: {HANDLER}}
- {type: always-disagg-pd-decider}
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 512}}
- {type: always-disagg-multimodal-decider}
- {type: decode-filter}
- {type: prefill-filter}
- {type: encode-filter}
- {type: active-request-scorer}
- {type: inflight-load-producer}
- {type: max-score-picker}
- {name: two, type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}
schedulingProfiles:
- name: decode
  plugins: [{pluginRef: decode-filter}, {pluginRef: active-request-scorer}, {pluginRef: max-score-picker}]
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: active-request-scorer}, {pluginRef: max-score-picker}]
- name: encode
  plugins: [{pluginRef: encode-filter}, {pluginRef: active-request-scorer}, {pluginRef: two}]
"""


def disaggregated(
    fleet: Fleet, handler: str = "deciders: {prefill: always-disagg-pd-decider}", **settings: Any
) -> Scheduler:
    return scheduler(DISAGGREGATED.replace("HANDLER", handler), fleet, **settings)


# --- disagg-profile-handler ---------------------------------------------------------------------------


def test_the_prompt_is_worked_on_elsewhere_and_the_server_is_told_where() -> None:
    fleet = pool()
    decision = decided(disaggregated(fleet).pick(prompt_of(LONG), 0.0))
    prefill = decision.picks["prefill"][0]
    assert decision.endpoints[0].labels["llm-d.ai/role"] == "decode"
    assert prefill.labels["llm-d.ai/role"] == "prefill"
    assert decision.headers == {"x-prefiller-host-port": prefill.address}
    assert decision.addresses == [decision.endpoints[0].address]
    assert (decision.remark, set(decision.picks)) == ("", {"decode", "prefill"})


def test_the_prompt_is_booked_where_it_is_worked_on_until_the_first_token() -> None:
    fleet = pool()
    decision = decided(disaggregated(fleet).pick(prompt_of(LONG), 0.0))
    decode, prefill = decision.endpoints[0], decision.picks["prefill"][0]

    def booked() -> list[tuple[int, int]]:
        return [(each.requests_in_flight, each.tokens_in_flight) for each in (decode, prefill)]

    assert booked() == [(1, 0), (1, 1250)]  # 5000 bytes
    decision.reservation.prefilled(0.0)
    assert booked() == [(1, 0), (0, 0)]
    decision.reservation.release()
    assert booked() == [(0, 0), (0, 0)]
    with pytest.raises(RuntimeError, match="released twice"):
        decision.reservation.release()


def test_a_request_that_ends_before_its_first_token_gives_everything_back() -> None:
    fleet = pool()
    decided(disaggregated(fleet).pick(prompt_of(LONG), 0.0)).reservation.release()
    assert all((each.requests_in_flight, each.tokens_in_flight) == (0, 0) for each in fleet.endpoints)


def test_requests_spread_over_the_servers_of_each_stage() -> None:
    fleet = pool()
    chooses = disaggregated(fleet)
    decisions = [decided(chooses.pick(prompt_of(LONG), 0.0)) for _ in range(2)]
    for stage in ("decode", "prefill"):
        assert len({decision.picks[stage][0] for decision in decisions}) == 2


def test_both_stages_hold_the_prompt_in_the_end() -> None:
    fleet = pool({"d0": "decode", "p0": "prefill"})
    chooses = disaggregated(fleet, "deciders: {prefill: prefix-based-pd-decider}")
    first = decided(chooses.pick(prompt_of(LONG), 0.0))
    assert set(first.picks) == {"decode", "prefill"}
    again = decided(chooses.pick(prompt_of(LONG), 0.0))
    assert again.match is not None
    held = {endpoint.name: blocks for endpoint, blocks in again.match.blocks.items()}
    assert held == {"d0": 20, "p0": 20}  # 5000 bytes are 20 blocks of 256
    assert (picks(again), again.headers) == (
        {"decode": ["d0"]},
        None,
    )  # so that prefill is not worth it any more


MEDIA = [{"type": "image_url", "image_url": {"url": "data:,x"}}]


def chat(content: object) -> Request:
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": content}]})
    return Request(api=Api.CHAT_COMPLETIONS, payload=parse(Api.CHAT_COMPLETIONS, body))


BOTH = "deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}"


@pytest.mark.parametrize(
    "handler, content, stages",
    [
        pytest.param("", MEDIA, ["decode"], id="without-deciders-no-stages"),
        pytest.param(BOTH, MEDIA, ["decode", "encode", "prefill"], id="decode-encode-prefill"),
        pytest.param(BOTH, "text", ["decode", "prefill"], id="text-needs-no-encoding"),
        pytest.param(
            "deciders: {encode: always-disagg-multimodal-decider}",
            MEDIA,
            ["decode", "encode"],
            id="encode-only",
        ),
        pytest.param("deciders: {prefill: prefix-based-pd-decider}", "short", ["decode"], id="not-worth-it"),
        pytest.param("stageOrder: prefill-first", "text", ["prefill", "decode"], id="prefill-first"),
        pytest.param(
            "stageOrder: prefill-first, deciders: {encode: always-disagg-multimodal-decider}",
            MEDIA,
            ["prefill", "encode", "decode"],
            id="prefill-encode-decode",
        ),
    ],
)
def test_stages_run_in_order_if_they_are_worth_it(handler: str, content: object, stages: list[str]) -> None:
    decision = decided(disaggregated(pool(), handler).pick(chat(content), 0.0))
    assert list(decision.picks) == stages
    assert set(decision.stages) == {*stages} - {"decode"}
    assert decision.endpoints[0].labels["llm-d.ai/role"] == "decode"


def test_prefill_first_without_a_profile_for_it_is_decode_alone() -> None:
    decode_only = DISAGGREGATED[: DISAGGREGATED.index("- name: prefill\n")]
    text = decode_only.replace("HANDLER", "stageOrder: prefill-first")
    decision = decided(scheduler(text, pool()).pick(prompt_of(LONG), 0.0))
    assert list(decision.picks or {}) == ["decode"] and decision.headers is None


def test_several_encoders_are_a_list() -> None:
    fleet = pool()
    decision = decided(disaggregated(fleet, BOTH).pick(chat(MEDIA), 0.0))
    assert decision.headers is not None
    told = str(decision.headers["x-encoder-hosts-ports"]).split(",")
    assert sorted(told) == ["10.0.0.5:8000", "10.0.0.6:8000"]
    assert [named(fleet, name).requests_in_flight for name in ("e0", "e1")] == [1, 1]
    decision.reservation.prefilled(0.0)
    decision.reservation.release()
    assert not any(endpoint.requests_in_flight for endpoint in fleet.endpoints)


@pytest.mark.parametrize(
    "handler, headers",
    [
        pytest.param("", {"x-prefiller-host-port": None, "x-encoder-hosts-ports": None}, id="no-stages"),
        pytest.param("deciders: {prefill: always-disagg-pd-decider}", None, id="prefill"),
    ],
)
def test_what_a_client_says_of_stages_never_gets_through(
    handler: str, headers: dict[str, str | None] | None
) -> None:
    spoofed = {"x-prefiller-host-port": "10.9.9.9:1", "x-encoder-hosts-ports": "10.9.9.9:2"}
    decision = decided(disaggregated(pool(), handler).pick(Request(headers=spoofed), 0.0))
    expected = headers or {
        "x-prefiller-host-port": decision.picks["prefill"][0].address,
        "x-encoder-hosts-ports": None,
    }
    assert decision.headers == expected


def test_where_nobody_can_work_on_the_prompt_the_request_goes_without() -> None:
    fleet = pool({"d0": "decode"})
    decision = decided(disaggregated(fleet).pick(prompt_of(LONG), 0.0))
    assert (decision.endpoints[0].name, decision.headers) == ("d0", None)
    assert decision.remark == "prefill: nobody could be picked, the request goes without"
    assert decision.stages == []
    assert decision.endpoints[0].tokens_in_flight == 1250


def test_where_those_who_work_on_prompts_are_dead_the_request_goes_without() -> None:
    fleet = pool()
    for name in ("p0", "p1"):
        fleet.lost(named(fleet, name), 1.0, "gone")
    decision = decided(disaggregated(fleet).pick(prompt_of(LONG), 1.0))
    assert decision.endpoints[0].labels["llm-d.ai/role"] == "decode" and decision.headers is None
    assert decision.remark == "prefill: nobody could be picked, the request goes without"


@pytest.mark.parametrize(
    "dead, code",
    [
        pytest.param((), Code.RESOURCE_EXHAUSTED, id="nobody-listed"),
        pytest.param(("d0",), Code.SERVICE_UNAVAILABLE, id="dead"),
    ],
)
def test_where_nobody_can_generate_the_request_is_refused_and_nothing_is_taken(
    dead: Sequence[str], code: Code
) -> None:
    fleet = pool({"p0": "prefill", **dict.fromkeys(dead, "decode")})
    for name in dead:
        fleet.lost(named(fleet, name), 1.0, "gone")
    refused = disaggregated(fleet).pick(prompt_of(LONG), 1.0)
    assert isinstance(refused, Rejection) and refused.code is code
    assert not any(endpoint.requests_in_flight for endpoint in fleet.endpoints)


def test_a_plugin_that_books_less_than_nothing_takes_nothing() -> None:
    fleet = pool()
    chooses = disaggregated(fleet)

    class Wrong:
        def produce(self, cycle: Any, endpoints: Any, name: str) -> None: ...

        def picked(self, cycle: Any, endpoint: Any, found: Any) -> None:
            cycle.charge = -1

    chooses._producers = (("wrong", Wrong()),)
    with pytest.raises(ValueError, match="expected at least 0, got -1"):
        chooses.pick(prompt_of(LONG), 0.0)
    assert not any(endpoint.requests_in_flight for endpoint in fleet.endpoints)


def test_ordered_destinations_are_of_the_stage_that_gets_the_request() -> None:
    decision = decided(disaggregated(pool(), destinations=3).pick(prompt_of(LONG), 0.0))
    assert sorted(endpoint.name for endpoint in decision.endpoints) == ["d0", "d1"]


def test_the_picks_of_all_profiles_are_shown() -> None:
    chooses = disaggregated(pool({"d0": "decode", "p0": "prefill"}))
    chooses.pick(prompt_of(LONG), 0.0)
    assert describe(chooses.recent[0])["profiles"] == {"decode": ["d0"], "prefill": ["p0"]}


def test_prefill_near_to_decode() -> None:
    zones = {name: {"topology.kubernetes.io/zone": zone} for name, zone in zip(ROLES, "ababab", strict=True)}
    fleet = pool(ROLES, **zones)
    text = DISAGGREGATED.replace("HANDLER", "deciders: {prefill: always-disagg-pd-decider}")
    text = text.replace(
        "- {type: max-score-picker}\n", "- {type: max-score-picker}\n- {type: topology-affinity-scorer}\n", 1
    )
    near = text.replace(
        "[{pluginRef: prefill-filter}",
        "[{pluginRef: prefill-filter}, {pluginRef: topology-affinity-scorer, weight: 100}",
    )
    chooses = scheduler(near, fleet)
    for _ in range(8):
        decision = decided(chooses.pick(prompt_of(LONG), 0.0))
        zone = decision.endpoints[0].labels["topology.kubernetes.io/zone"]
        assert decision.picks["prefill"][0].labels["topology.kubernetes.io/zone"] == zone


@given(steps=st.lists(st.sampled_from(["pick", "prefilled", "release"]), max_size=30), seed=st.integers(0, 9))
def test_whatever_is_booked_is_given_back(steps: list[str], seed: int) -> None:
    fleet = pool()
    chooses = disaggregated(fleet, BOTH)
    dice, running, waiting = random.Random(seed), [], []
    for step in steps:
        if step == "pick":
            waiting.append(decided(chooses.pick(chat(dice.choice([MEDIA, "text"])), 0.0)))
        elif step == "prefilled" and waiting:
            running.append(waiting.pop(dice.randrange(len(waiting))))
            running[-1].reservation.prefilled(0.0)
        elif step == "release" and (waiting or running):
            ended = dice.choice([each for each in (waiting, running) if each])
            ended.pop(dice.randrange(len(ended))).reservation.release()
        decoding = sum(named(fleet, name).requests_in_flight for name in ("d0", "d1"))
        prefilling = sum(named(fleet, name).requests_in_flight for name in ("p0", "p1"))
        assert (decoding, prefilling) == (len(waiting) + len(running), len(waiting))
    for decision in (*waiting, *running):
        decision.reservation.release()
    assert not any(endpoint.requests_in_flight or endpoint.tokens_in_flight for endpoint in fleet.endpoints)


# --- deciders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters, prompt_bytes, held, expected",
    [
        # blocks of 64 tokens
        pytest.param({"non_cached_tokens": 512}, 4 * 512, 0, True, id="just-enough"),
        pytest.param({"non_cached_tokens": 512}, 4 * 511, 0, False, id="one-too-few"),
        pytest.param({"non_cached_tokens": 512}, 4 * 1152, 10, True, id="just-enough-without-the-cached"),
        pytest.param({"non_cached_tokens": 512}, 4 * 1151, 10, False, id="one-too-few-without-the-cached"),
        pytest.param({"non_cached_tokens": 1, "prompt_tokens": 100}, 4 * 99, 0, False, id="too-short"),
        pytest.param({"non_cached_tokens": 1, "prompt_tokens": 100}, 4 * 100, 0, True, id="long-enough"),
        pytest.param({}, 4_000_000, 0, False, id="switched-off"),
    ],
)
def test_what_is_not_cached_decides(
    parameters: dict[str, int], prompt_bytes: int, held: int, expected: bool
) -> None:
    (endpoint,) = endpoints_of(Load())
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * prompt_bytes)))
    cycle.facts["approx-prefix-cache-producer"] = PrefixMatch({endpoint: held}, 99, 64)
    decider = PrefixBasedPdDecider(**parameters)
    assert decider.disaggregates(cycle, endpoint) is expected
    assert decider.disaggregates(cycle, None) is False


def test_where_nothing_is_known_of_caches_it_is_never_worth_it() -> None:
    (endpoint,) = endpoints_of(Load())
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * 9999)))
    assert PrefixBasedPdDecider(non_cached_tokens=1).disaggregates(cycle, endpoint) is False
    assert AlwaysDisaggPdDecider().disaggregates(cycle, endpoint) is True


@pytest.mark.parametrize(
    "content, has_media",
    [
        pytest.param(MEDIA, True, id="image"),
        pytest.param(
            [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}], True, id="sound"
        ),
        pytest.param([{"type": "video_url", "video_url": {"url": "x"}}], True, id="video"),
        pytest.param([{"type": "text", "text": "an image_url \u001c"}], False, id="text-about-images"),
        pytest.param("plain", False, id="plain"),
    ],
)
def test_what_is_not_text_decides(content: object, has_media: bool) -> None:
    assert AlwaysDisaggMultimodalDecider().disaggregates(cycle_of(chat(content)), None) is has_media


# --- header-profile-handler -------------------------------------------------------------------------------

BY_HEADER = """\
plugins:
- {type: header-profile-handler, parameters: {HANDLER}}
- {type: decode-filter}
- {type: prefill-filter}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}]}
"""


@pytest.mark.parametrize(
    "handler, headers, role",
    [
        pytest.param("", {"epp-profile": "prefill"}, "prefill", id="named"),
        pytest.param("", {"epp-profile": " decode "}, "decode", id="spaces"),
        pytest.param("", {}, "decode", id="the-default"),
        pytest.param("", {"epp-profile": "  "}, "decode", id="blank"),
        pytest.param("defaultProfile: prefill", {}, "prefill", id="another-default"),
        pytest.param("headerName: X-Stage", {"x-stage": "prefill"}, "prefill", id="another-header"),
    ],
)
def test_a_header_says_which_profile(handler: str, headers: dict[str, str], role: str) -> None:
    chooses = scheduler(BY_HEADER.replace("HANDLER", handler), pool())
    decision = decided(chooses.pick(Request(headers=headers), 0.0))
    assert decision.endpoints[0].labels["llm-d.ai/role"] == role
    assert decision.headers is None


def test_a_profile_that_is_not_there_is_the_clients_mistake() -> None:
    refused = scheduler(BY_HEADER.replace("HANDLER", ""), pool()).pick(
        Request(headers={"epp-profile": "x"}), 0.0
    )
    assert isinstance(refused, Rejection) and refused.status == 400
    assert refused.message == 'EPP-Profile: there is no profile "x", known are decode, prefill'


def test_one_profile_alone_is_used_whatever_the_header_says() -> None:
    text = "plugins: [{type: header-profile-handler}, {type: queue-scorer}]\n"
    for more in ("", "schedulingProfiles: [{name: only, plugins: [{pluginRef: queue-scorer}]}]"):
        decision = scheduler(text + more, pool()).pick(Request(headers={"epp-profile": "x"}), 0.0)
        assert isinstance(decision, Decision)


# --- data-parallel-profile-handler ------------------------------------------------------------------------


def test_all_ranks_are_behind_one_port() -> None:
    handler = "{type: data-parallel-profile-handler, parameters: {primaryPort: 9000}}"
    text = f"plugins: [{handler}, {{type: queue-scorer}}]"
    fleet = Fleet()
    specs = [EndpointSpec(name=f"rank-{port}", ip="fd00::1", port=port) for port in (8001, 8002)]
    fleet.replace(specs, 0.0)
    for endpoint in fleet.endpoints:
        fleet.answered(endpoint, 0.0)
    decision = decided(
        scheduler(text, fleet).pick(Request(headers={"x-data-parallel-host-port": "evil:1"}), 0.0)
    )
    assert decision.addresses == ["[fd00::1]:9000"]
    assert decision.headers == {"x-data-parallel-host-port": decision.endpoints[0].address}
    assert decision.stages is None
    assert decision.endpoints[0].requests_in_flight == 1


def test_without_anybody_to_pick_the_request_is_refused() -> None:
    text = "plugins: [{type: data-parallel-profile-handler}, {type: encode-filter}]"
    refused = scheduler(text, pool({"d0": "decode"})).pick(Request(), 0.0)
    assert isinstance(refused, Rejection) and refused.code is Code.RESOURCE_EXHAUSTED
