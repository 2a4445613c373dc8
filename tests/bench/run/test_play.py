import asyncio
import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise

import pytest

from bench.run import play
from bench.workloads.sessions import Session
from epp.config.decode import ConfigError
from tests.bench.run.chat import HEAD, Body, Write, chat, chunk, event, every, says_hello, session, stretch


async def test_a_later_turn_sends_the_answers_that_were_really_given() -> None:
    async with chat() as there:
        played = stretch(there.url, [session(7, turns=3)], seconds=5)
        await played.play()
    first, second, third = (body["messages"] for body in there.bodies)
    assert [message["role"] for message in third] == ["user", "assistant", "user", "assistant", "user"]
    assert third[:3] == second and second[:1] == first
    assert third[1]["content"] == "hello"
    assert len({message["content"] for message in third[::2]}) == 3
    assert [(one.session, one.turn) for one in played.requests] == [(7, 1), (7, 2), (7, 3)]
    body = there.bodies[0]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 3, True)
    assert body["stream_options"] == {"include_usage": True} and "ignore_eos" not in body


async def test_a_later_turn_is_due_so_long_after_the_answer_as_its_user_thinks() -> None:
    async with chat() as there:
        played = stretch(there.url, [session(1, turns=2, think=0.1)], seconds=5)
        await played.play()
    first, second = (one.sample for one in played.requests)
    assert second.due == pytest.approx(first.ended + 0.1)
    assert second.sent is not None and second.sent >= second.due


async def test_what_is_due_is_sent_whatever_the_answers_do() -> None:
    everybody = asyncio.Event()

    async def waits(body: Body, write: Write) -> None:
        if len(there.bodies) == 20:
            everybody.set()
        await everybody.wait()
        await says_hello(body, write)

    async with chat(waits) as there:
        played = stretch(there.url, every(0.01), seconds=0.2)
        await played.play()
    assert len(played.requests) == 20 and all(one.sample.ok for one in played.requests)
    due = [one.sample.due for one in played.requests]
    assert [b - a for a, b in pairwise(due)] == pytest.approx([0.01] * 19)
    first = played.requests[0].sample
    assert first.ttft is not None and first.ttft >= 0.19 - 1e-3  # it waited for the twentieth


async def test_lateness_of_the_bench_itself_is_apart_from_that_of_answers() -> None:
    async with chat() as there:
        played = stretch(there.url, every(0.01), seconds=0.1)
        await played.play()
    for one in played.requests:
        assert one.sample.sent is not None and one.late >= 0
        assert one.sample.due + one.late <= one.sample.sent + 1e-9


async def test_nobody_asks_after_the_end_and_what_is_under_way_is_waited_for() -> None:
    async def slow(body: Body, write: Write) -> None:
        await asyncio.sleep(0.15)
        await says_hello(body, write)

    async with chat(slow) as there:
        played = stretch(there.url, [session(1, turns=5), session(2, 0.09), session(3, 0.2)], seconds=0.1)
        await played.play()
    assert [(one.session, one.sample.ok) for one in played.requests] == [(1, True), (2, True)]
    assert played.is_complete and played.ended >= played.end


async def test_no_more_requests_are_sent_than_were_asked_for() -> None:
    async with chat() as there:
        played = stretch(there.url, every(0.001), seconds=30, requests=7)
        await played.play()
    assert len(played.requests) == 7 and played.is_complete
    assert played.ended - played.began < 10


async def test_users_have_one_session_after_the_other() -> None:
    at_once = most = 0

    async def counts(body: Body, write: Write) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.005)
        at_once -= 1
        await says_hello(body, write)

    async with chat(counts) as there:
        played = stretch(there.url, (session(number) for number in range(12)), seconds=30, users=3)
        await played.play()
    assert (len(played.requests), most) == (12, 3)


async def test_beyond_so_many_in_flight_a_request_is_not_sent_and_has_failed() -> None:
    async def never(body: Body, write: Write) -> None:
        await asyncio.Event().wait()

    async with chat(never) as there:
        played = stretch(there.url, every(0.01), seconds=0.1, in_flight=2, timeout=0.3)
        await played.play()
    errors = [one.sample.error for one in played.requests]
    assert (errors.count("timeout"), errors.count("not sent: 2 in flight")) == (2, 8)


async def test_a_server_that_stops_in_the_middle_of_a_stream_is_counted_as_that() -> None:
    async def stops(body: Body, write: Write) -> None:
        await write(HEAD + chunk(event("hel")))
        raise ConnectionError

    async with chat(stops) as there:
        played = stretch(there.url, [session(1, turns=3)])
        await played.play()
    (one,) = played.requests  # who gets no answer gives up
    assert one.sample.error == "answer cut off"
    assert one.sample.first_token is not None and one.answer.text == "hel"
    assert played.is_complete


async def test_a_stream_that_ends_without_its_mark_has_failed() -> None:
    async def forgets(body: Body, write: Write) -> None:
        await write(HEAD + chunk(event("x")) + b"0\r\n\r\n")

    async with chat(forgets) as there:
        played = stretch(there.url, [session(1)])
        await played.play()
    assert played.requests[0].sample.error == "stream without [DONE]"


async def test_a_url_that_dies_ends_the_stretch_and_what_there_was_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(play, "DEAD_SECONDS", 0.1)
    five = asyncio.Event()

    async def counts(body: Body, write: Write) -> None:
        if len(there.bodies) == 5:
            five.set()
        await says_hello(body, write)

    async with chat(counts) as there:
        played = stretch(there.url, every(0.01), seconds=60)
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(played.play())
            await five.wait()
            there.listening.close()
            there.drop()
            await playing
    assert not played.is_complete
    assert played.broken.startswith(f"{there.url} took no connection (connect: ")
    assert sum(one.sample.ok for one in played.requests) >= 4
    assert played.ended - played.began < 10


async def test_an_interrupt_keeps_what_was_under_way_as_unfinished() -> None:
    asked = asyncio.Event()

    async def never(body: Body, write: Write) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with chat(never) as there:
        played = stretch(there.url, [session(1)], seconds=60)
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(played.play())
            await asked.wait()
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
    (one,) = played.requests
    assert not one.is_over and not played.is_complete
    assert played.ended > 0 and not math.isnan(played.ended)


async def test_a_trace_that_is_broken_further_on_ends_the_stretch() -> None:
    def broken() -> Iterator[Session]:
        yield session(1)
        raise ConfigError("trace.jsonl:2: is not JSON")

    async with chat() as there:
        played = stretch(there.url, broken(), seconds=60)
        await played.play()
    assert (len(played.requests), played.broken, played.is_complete) == (
        1,
        "trace.jsonl:2: is not JSON",
        False,
    )


async def test_another_salt_makes_other_words_of_the_same_length() -> None:
    async with chat() as there:
        for salt in ("a ", "b ", "a "):
            played = stretch(there.url, [session(1)])
            played.salt = salt
            await played.play()
    a, b, again = (body["messages"][0]["content"] for body in there.bodies)
    assert a == again != b and len(a.split()) == len(b.split()) == 5


async def test_an_engine_may_be_told_to_go_on_to_the_asked_length() -> None:
    async with chat() as there:
        played = stretch(there.url, [session(1)])
        played.ignore_eos = True
        await played.play()
    assert there.bodies[0]["ignore_eos"] is True
