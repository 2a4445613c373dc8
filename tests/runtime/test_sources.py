"""A file and a pool as one list."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

import pytest

from epp.core.fleet import EndpointSpec
from epp.runtime.errors import StartError
from epp.runtime.metrics import Family, Values
from epp.runtime.sources import OnChange, Sources
from tests.runtime.raw_server import eventually


def spec(name: str, ip: str, namespace: str = "models") -> EndpointSpec:
    return EndpointSpec(name=name, namespace=namespace, ip=ip, port=8000)


class Source:
    """One that tells what a test says."""

    def __init__(
        self, tell: OnChange, at_start: Sequence[EndpointSpec] | None = None, wrong: str = ""
    ) -> None:
        self.tell = tell
        self.at_start = at_start
        self.wrong = wrong
        self.called: list[str] = []

    async def start(self) -> None:
        if self.at_start is not None:
            self.tell(self.at_start)

    async def run(self) -> None:
        self.called.append("run")
        await asyncio.Event().wait()

    def reread(self) -> None:
        self.called.append("reread")

    def recheck(self, host_name: str) -> None:
        self.called.append(f"recheck {host_name}")

    def detail(self) -> str:
        return self.wrong

    def families(self) -> Iterable[Family]:
        yield Values(f"of_{self.wrong}", "gauge", "Something.", (), {})


class Both:
    """A file and a pool, and what has been told of them."""

    def __init__(
        self, file: Sequence[EndpointSpec] | None = None, pool: Sequence[EndpointSpec] | None = None
    ) -> None:
        self.told: list[list[str]] = []
        self.made: dict[str, Source] = {}

        def make(name: str, at_start: Sequence[EndpointSpec] | None) -> Source:
            return self.made.setdefault(name, Source(self.tells[name], at_start, wrong=name))

        self.tells: dict[str, OnChange] = {}
        sources = {}
        for name, at_start in (("file", file), ("pool", pool)):

            def made(
                tell: OnChange, name: str = name, at_start: Sequence[EndpointSpec] | None = at_start
            ) -> Source:
                self.tells[name] = tell
                return make(name, at_start)

            sources[name] = made
        self.sources = Sources(sources, lambda specs: self.told.append([one.name for one in specs]))


async def test_nothing_is_told_before_all_have_started() -> None:
    both = Both([spec("desk", "10.0.0.1")], [spec("pod", "10.0.0.2")])
    await both.sources.start()
    assert both.told == [["desk", "pod"]]


async def test_one_that_has_nothing_after_its_start_holds_up_nobody_and_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "epp.discovery")
    both = Both([spec("desk", "10.0.0.1")])
    await both.sources.start()
    assert both.told == [["desk"]]
    assert both.sources.detail() == "pool: no endpoints told yet, file serves alone; file; pool"
    both.tells["file"]([spec("desk", "10.0.0.1"), spec("lap", "10.0.0.3")])
    both.tells["file"]([spec("desk", "10.0.0.1")])
    assert [record.msg for record in caplog.records] == ["a source has told no endpoints yet"], "once"
    both.tells["pool"]([])
    assert both.sources.detail() == "file; pool", "none is an answer"
    assert caplog.records[-1].msg == "a source has told its endpoints"


async def test_one_that_tells_later_is_taken_in() -> None:
    both = Both([spec("desk", "10.0.0.1")])
    await both.sources.start()
    both.tells["pool"]([spec("pod", "10.0.0.2")])
    both.tells["file"]([])
    assert both.told == [["desk"], ["desk", "pod"], ["pod"]]


async def test_where_nobody_knows_anything_nothing_is_told() -> None:
    both = Both()
    await both.sources.start()
    assert both.told == []
    assert both.sources.detail() == "file; pool", "each says for itself what is missing"


async def test_one_that_cannot_start_stops_the_start() -> None:
    both = Both([])

    async def fail() -> None:
        raise StartError("no")

    both.made["pool"].start = fail  # type: ignore[method-assign]
    with pytest.raises(StartError):
        await both.sources.start()


async def test_everybody_is_asked() -> None:
    both = Both()
    both.sources.reread()
    both.sources.recheck("studio.local")
    assert both.sources.detail() == "file; pool"
    assert [family.name for family in both.sources.families()] == ["of_file", "of_pool"]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(both.sources.run())
        await eventually(lambda: all("run" in one.called for one in both.made.values()))
        task.cancel()
    assert all(one.called == ["reread", "recheck studio.local", "run"] for one in both.made.values())


async def test_a_server_that_both_list_counts_as_the_first_says(caplog: pytest.LogCaptureFixture) -> None:
    both = Both([spec("desk", "10.0.0.1")], [spec("mac", "10.0.0.1"), spec("pod", "10.0.0.2")])
    await both.sources.start()
    assert both.told == [["desk", "pod"]]
    (record,) = caplog.records
    assert record.msg == "a server is listed twice: only its first entry counts"
    both.tells["pool"]([spec("mac", "10.0.0.1")])
    assert len(caplog.records) == 1, "said once"
    both.tells["file"]([])
    assert both.told[-1] == ["mac"]
