"""What a name server says and what SIGHUP asks for, at the edges."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.runtime.discovery import Signature, resolve
from tests.runtime.raw_server import eventually
from tests.runtime.test_discovery import QUICK, World, listed, world

# --- to which addresses -------------------------------------------------------------------------------

FOURS, SIXES = [f"10.0.0.{n}" for n in range(4)], [f"fd00::{n}" for n in range(4)]


async def resolved(answers: list[str]) -> list[str]:
    """What ``resolve`` makes of a resolver's answers."""
    asked: list[tuple[object, ...]] = []

    async def getaddrinfo(host: str, port: int, **kinds: int) -> list[tuple[object, ...]]:
        asked.append((host, port, kinds))
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answers
        ]

    loop = asyncio.get_running_loop()
    loop.getaddrinfo = getaddrinfo  # type: ignore[assignment, method-assign]
    addresses = await resolve("studio", 80)
    assert asked == [("studio", 80, {"type": socket.SOCK_STREAM})], "not for each protocol"
    return addresses


@given(answers=st.lists(st.sampled_from(FOURS + SIXES), max_size=12))
@example(answers=[SIXES[0], FOURS[0], SIXES[1]])
def test_a_name_has_its_ipv4_addresses_if_there_are_any_in_a_stable_order(answers: list[str]) -> None:
    known = set(answers)
    assert asyncio.run(resolved(answers)) == (sorted(known & {*FOURS}) or sorted(known & {*SIXES}))


# --- how often it is asked ----------------------------------------------------------------------------


async def test_a_name_that_has_not_resolved_for_hours_is_asked_as_often_as_one_that_does(
    tmp_path: Path,
) -> None:
    """However often it has failed: the time to wait doubles in a number that must not become too large."""
    settings = replace(QUICK, retry_interval=2.0, resolve_interval=30.0)
    here = world(tmp_path, listed(a="studio"), settings)
    await here.discovery.start()
    name = here.discovery._names["studio", 80]
    for tries in range(2, 1_200):
        here.now = name.due
        await here.discovery._follow_names_once(timeout=5.0)
        assert here.names.asked == tries
        assert name.due == here.now + min(2.0 ** min(tries, 9), 30.0)
    here.names.known["studio"] = ["10.0.0.1"]
    here.now = name.due
    await here.discovery._follow_names_once(timeout=5.0)
    assert here.told[-1] == {"a": "10.0.0.1:80"}


# --- asked for by SIGHUP ------------------------------------------------------------------------------


class Looks:
    """Counts how often the file is looked at, and does one thing of ``then`` right after each look."""

    def __init__(self, here: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.then: list[Callable[[], object]] = []
        self._look = here.discovery._signature
        monkeypatch.setattr(here.discovery, "_signature", self)

    def __call__(self) -> Signature | None:
        seen = self._look()
        if self.then:
            self.then.pop(0)()
        self.count += 1
        return seen


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


async def test_an_unchanged_file_is_read_when_asked_for_and_not_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "epp.discovery")
    here = world(tmp_path, listed(a="10.0.0.1"))
    looks = Looks(here, monkeypatch)
    async with here.running():
        for times in (0, 1, 2):
            assert said(caplog) == ["endpoints file taken over"] * times
            looked = looks.count
            await eventually(lambda looked=looked: looks.count >= looked + 10)
            assert said(caplog) == ["endpoints file taken over"] * times
            here.discovery.reread()
            await eventually(lambda times=times: len(caplog.records) > times)
    assert len(here.told) == 1, "the list is the same"


@pytest.mark.parametrize("watch", [True, False], ids=["followed", "not-followed"])
async def test_what_is_asked_for_while_it_is_written_is_read_when_it_is_whole(
    watch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"), replace(QUICK, watch=watch))
    looks = Looks(here, monkeypatch)
    async with here.running():
        looks.then = [lambda: here.write(listed(a="10.0.0.2"))]
        here.discovery.reread()
        assert await here.change() == {"a": "10.0.0.2:80"}


async def test_what_is_asked_for_while_the_file_is_away_is_read_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "epp.discovery")
    here, away = world(tmp_path, listed(a="10.0.0.1"), replace(QUICK, watch=False)), tmp_path / "away"
    looks = Looks(here, monkeypatch)
    async with here.running():
        looks.then = [lambda: here.path.rename(away), lambda: away.rename(here.path)]
        here.discovery.reread()
        await eventually(lambda: said(caplog) == ["endpoints file taken over"])


async def test_who_asks_for_a_file_that_is_gone_is_told_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        here.path.unlink()
        for times in (1, 2, 3):
            await eventually(lambda times=times: len(caplog.records) == times)
            here.discovery.reread()
        await eventually(lambda: len(caplog.records) == 4)
        assert here.discovery.errors == 4
    assert {*said(caplog)} == {"endpoints file not usable, the last good list stays"}
