"""Sessions that go back to where they were: the affinity plugins, and who finds a session's name."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core import sessions
from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.core.request import Request
from epp.core.scoring import Cycle
from epp.core.sessions import (
    Bindings,
    EncodedEndpointHeader,
    SessionIds,
    SessionSource,
    endpoint_of,
    token_of,
)
from scorers.agent_identity import AgentIdentity
from scorers.session_affinity_filter import SessionAffinityFilter
from scorers.session_affinity_scorer import SessionAffinityScorer
from scorers.session_id_producer import SessionIdProducer
from tests.picking import cycle_of

E1 = "ZGVmYXVsdC9lMQ=="  # base64 of default/e1


def three() -> tuple[Endpoint, ...]:
    fleet = Fleet()
    fleet.replace((EndpointSpec(name=f"e{i}", ip=f"10.0.0.{i + 1}", port=8000) for i in range(3)), 0.0)
    return fleet.endpoints


def asking(now: float = 0.0, **headers: str) -> Cycle:
    cycle = cycle_of(Request(headers={name.replace("_", "-"): value for name, value in headers.items()}))
    cycle.now = now
    return cycle


def goes(
    plugin: SessionAffinityScorer | SessionAffinityFilter,
    cycle: Cycle,
    endpoint: Endpoint,
    **others: Endpoint,
) -> dict[str, str]:
    """The request goes there; what its response is told."""
    cycle.picks = {"decode": (endpoint,)} | {name: (each,) for name, each in others.items()}
    return dict(plugin.sent(cycle, "decode"))


# --- the client remembers --------------------------------------------------------------------------------


def test_the_response_tells_a_token_that_leads_back() -> None:
    endpoints = three()
    scorer, keeper = SessionAffinityScorer(), SessionAffinityFilter()
    assert goes(scorer, asking(), endpoints[1]) == {"x-session-token": E1}
    back = asking(x_session_token=E1)
    assert scorer.score(back, endpoints) == [0.0, 1.0, 0.0]
    assert list(keeper.filter(back, endpoints)) == [endpoints[1]]


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="none"),
        pytest.param("ZGVmYXVsdC9lOQ==", id="of-nobody"),
        pytest.param("e1", id="not-base64"),
        pytest.param("ZGVmYXVsdC9lMQ", id="without-its-padding"),
        pytest.param("/////w==", id="no-text"),
        pytest.param("ä", id="not-ascii"),
        pytest.param("A" * 4096, id="endless"),
    ],
)
def test_any_other_token_is_no_session(token: str) -> None:
    endpoints = three()
    cycle = asking(x_session_token=token)
    assert SessionAffinityScorer().score(cycle, endpoints) == [None, None, None]
    assert SessionAffinityFilter().filter(cycle, endpoints) is endpoints


def test_a_token_leads_only_to_a_candidate() -> None:
    endpoints = three()
    cycle = asking(x_session_token=E1)
    assert SessionAffinityScorer().score(cycle, [endpoints[0], endpoints[2]]) == [None, None]
    assert list(SessionAffinityFilter().filter(cycle, [endpoints[0]])) == [endpoints[0]]


def test_header_and_profile_may_be_others() -> None:
    endpoints = three()
    header = EncodedEndpointHeader(header="X-Prefill-Session")
    scorer = SessionAffinityScorer(encoded_endpoint_header_config=header, profile_name="prefill")
    told = goes(scorer, asking(), endpoints[0], prefill=endpoints[1])
    assert told == {"x-prefill-session": E1}
    assert goes(scorer, asking(), endpoints[0]) == {}  # nobody was picked there
    assert scorer.score(asking(x_prefill_session=E1), endpoints) == [0.0, 1.0, 0.0]


@given(namespace=st.text(max_size=40), name=st.text(max_size=40))
def test_every_endpoint_is_found_by_its_own_token(namespace: str, name: str) -> None:
    one = Endpoint(EndpointSpec(name=name, namespace=namespace, ip="10.0.0.1", port=1))
    other = Endpoint(EndpointSpec(name="another" * 20, ip="10.0.0.2", port=1))
    assert base64.b64decode(token_of(one)).decode() == f"{namespace}/{name}"
    assert endpoint_of(token_of(one), [other, one]) is one


@given(token=st.text(max_size=60))
def test_a_token_of_anything_names_somebody_or_nobody(token: str) -> None:
    endpoints = three()
    assert endpoint_of(token, endpoints) in (*endpoints, None)


# --- the picker remembers ----------------------------------------------------------------------------------


def remembering(**parameters: Any) -> SessionAffinityScorer:
    return SessionAffinityScorer(strategy="session_id", session_id_config=SessionIds(**parameters))


def test_a_session_goes_back_to_where_it_was() -> None:
    endpoints, scorer = three(), remembering()
    first = asking(x_session_id="s")
    assert scorer.score(first, endpoints) == [None, None, None]
    assert goes(scorer, first, endpoints[2]) == {}
    assert scorer.score(asking(x_session_id="s"), endpoints) == [0.0, 0.0, 1.0]
    assert scorer.score(asking(x_session_id="t"), endpoints) == [None, None, None]
    assert scorer.score(asking(), endpoints) == [None, None, None]


def test_where_its_endpoint_is_gone_it_is_bound_anew() -> None:
    endpoints = three()
    keeper = SessionAffinityFilter(strategy="session_id")
    goes(keeper, asking(x_session_id="s"), endpoints[2])
    left = endpoints[:2]
    assert keeper.filter(asking(x_session_id="s"), left) is left
    goes(keeper, asking(x_session_id="s"), endpoints[0])
    assert list(keeper.filter(asking(x_session_id="s"), endpoints)) == [endpoints[0]]


@pytest.mark.parametrize(
    "used_at, asked_at, is_bound",
    [
        pytest.param([0.0], 300.0, True, id="to-the-end"),
        pytest.param([0.0], 310.1, False, id="and-no-longer-than-that-and-a-sweep"),
        pytest.param([0.0, 290.0], 580.0, True, id="each-request-counts"),
    ],
)
def test_a_binding_lasts_as_long_as_said(used_at: list[float], asked_at: float, is_bound: bool) -> None:
    endpoints, scorer = three(), remembering()
    for now in used_at:
        goes(scorer, asking(now, x_session_id="s"), endpoints[0])
    scores = scorer.score(asking(asked_at, x_session_id="s"), endpoints)
    assert scores == ([1.0, 0.0, 0.0] if is_bound else [None, None, None])


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from("abcd"), st.integers(0, 2), st.booleans()), max_size=40
    )
)
def test_bindings_are_never_older_than_time_to_live_and_sweep(
    steps: list[tuple[float, str, int, bool]],
) -> None:
    endpoints, bindings, now = three(), Bindings(ttl=20.0, sweep=5.0), 0.0
    last: dict[str, tuple[Endpoint, float]] = {}
    for wait, session, place, is_sent in steps:
        now += wait
        if is_sent:
            bindings.bind(session, endpoints[place], now)
            last[session] = (endpoints[place], now)
            continue
        found = bindings.find(session, now)
        expected, used_at = last.get(session, (None, -1e9))
        if now - used_at <= 20.0:
            assert found is expected
        elif now - used_at > 25.0:
            assert found is None
        else:
            assert found in (expected, None)


def test_no_more_sessions_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    endpoints, bindings = three(), Bindings(ttl=1e9, sweep=1.0)
    for session in "abcad":
        bindings.bind(session, endpoints[0], 0.0)
    assert [session for session in "abcd" if bindings.find(session, 0.0)] == ["a", "c", "d"]
    assert len(bindings) == 3


def test_of_a_long_identifier_a_digest_is_kept() -> None:
    endpoints, scorer = three(), remembering()
    goes(scorer, asking(x_session_id="s" * 50_000), endpoints[1])
    assert scorer.score(asking(x_session_id="s" * 50_000), endpoints) == [0.0, 1.0, 0.0]
    assert scorer.score(asking(x_session_id="s" * 49_999), endpoints) == [None, None, None]
    assert len(next(iter(scorer.sessions.bindings._bound))) == 32


# --- where a session's name is ---------------------------------------------------------------------


def test_the_first_source_that_says_something_counts() -> None:
    endpoints = three()
    sources = (
        SessionSource(header="x-mine"),
        SessionSource(attribute="SessionIDDataKey", producer="cookies"),
        SessionSource(attribute="agent-identity"),
    )
    scorer = remembering(sources=sources)

    def asked(*, header: str = "", cookie: str = "", agent: str = "") -> Cycle:
        cycle = asking(**({"x_mine": header} if header else {}))
        cycle.facts.update(
            {"cookies": cookie} if cookie else {}, **({"agent-identity": agent} if agent else {})
        )
        return cycle

    goes(scorer, asked(header="one", cookie="two"), endpoints[1])
    goes(scorer, asked(cookie="two", agent="three"), endpoints[2])
    assert scorer.score(asked(header="one"), endpoints) == [0.0, 1.0, 0.0]
    assert scorer.score(asked(cookie="two"), endpoints) == [0.0, 0.0, 1.0]
    assert scorer.score(asked(agent="two"), endpoints) == [0.0, 0.0, 1.0]
    assert scorer.score(asked(agent="three"), endpoints) == [None, None, None]


@pytest.mark.parametrize(
    "parameters, headers, found",
    [
        pytest.param({"header_name": "X-Session"}, {"x-session": "abc"}, "abc", id="header"),
        pytest.param({"header_name": "X-Session"}, {}, None, id="no-header"),
        pytest.param({"cookie_name": "sid"}, {"cookie": "a=b; sid=abc; c=d"}, "abc", id="cookie"),
        pytest.param({"cookie_name": "sid"}, {"cookie": 'sid="abc=="'}, "abc==", id="quoted"),
        pytest.param({"cookie_name": "sid"}, {"cookie": "xsid=1; sid=2; sid=3"}, "2", id="the-first-of-them"),
        pytest.param({"cookie_name": "sid"}, {"cookie": "sid=; a=b"}, None, id="empty"),
        pytest.param({"cookie_name": "sid"}, {"cookie": "sid"}, None, id="no-value"),
        pytest.param({"cookie_name": "sid"}, {}, None, id="no-cookies"),
    ],
)
def test_session_id_producer_reads_a_header_or_a_cookie(
    parameters: dict[str, str], headers: dict[str, str], found: str | None
) -> None:
    cycle = cycle_of(Request(headers=headers))
    SessionIdProducer(**parameters).produce(cycle, (), "sessions")
    assert cycle.facts.get("sessions") == found


@pytest.mark.parametrize(
    "headers, found",
    [
        pytest.param({"x-claude-code-session-id": "a", "session-id": "b"}, "a", id="claude-code"),
        pytest.param({"x-session-affinity": "a", "session-id": "b"}, "a", id="opencode"),
        pytest.param({"session-id": "a", "session_id": "b"}, "a", id="codex"),
        pytest.param({"session_id": "b"}, "b", id="older-codex"),
        pytest.param({"x-mine": "m", "x-claude-code-session-id": "a"}, "m", id="additional-ones-first"),
        pytest.param({"x-mine": "  ", "session-id": "b"}, "b", id="blank-is-none"),
        pytest.param({"user-agent": "x"}, "", id="none"),
    ],
)
def test_agent_identity_knows_the_agents_headers(headers: dict[str, str], found: str) -> None:
    plugin = AgentIdentity(additional_session_headers=("X-Mine",))
    assert plugin.identity(headers) == found
    cycle = cycle_of(Request(headers=headers, agent=found))
    plugin.produce(cycle, (), "agents")
    assert cycle.facts == ({"agents": found} if found else {})


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made, parameters, message",
    [
        (EncodedEndpointHeader, {"header": "a b"}, "header: must be a header name"),
        (SessionSource, {}, "give either header or attribute"),
        (SessionSource, {"header": "a", "attribute": "agent-identity"}, "give either header or attribute"),
        (SessionSource, {"header": "a:"}, "header: must be a header name"),
        (SessionSource, {"header": "a", "producer": "b"}, "producer: belongs to an attribute"),
        (
            SessionSource,
            {"attribute": "x"},
            'attribute: expected "SessionIDDataKey" or "agent-identity", got "x"',
        ),
        (SessionIds, {"sources": ()}, "sources: give at least one"),
        (SessionIds, {"eviction_ttl_seconds": 0.0}, "evictionTtlSeconds: must be above 0 and at most a week"),
        (SessionIds, {"eviction_sweep_seconds": 1e9}, "evictionSweepSeconds: must be above 0"),
        (SessionIdProducer, {}, "give either headerName or cookieName"),
        (SessionIdProducer, {"header_name": "a", "cookie_name": "b"}, "give either headerName or cookieName"),
        (SessionIdProducer, {"cookie_name": "a;b"}, "cookieName: must be a name"),
        (AgentIdentity, {"additional_session_headers": ("a b",)}, "additionalSessionHeaders: must be header"),
    ],
)
def test_what_cannot_work_is_refused(made: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**parameters)
