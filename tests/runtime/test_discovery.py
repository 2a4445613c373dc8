"""A file of servers, followed: what is told, and what stays when something breaks.

A round of the loop takes a thousandth of a second here; every wait is for something that is told.
"""

import asyncio
import datetime as dt
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.endpoints_file import parse_endpoints
from epp.core.fleet import EndpointSpec, Fleet
from epp.runtime import files
from epp.runtime.discovery import DiscoverySettings, FileDiscovery, _Name, resolve
from epp.runtime.errors import StartError
from epp.runtime.tls import self_signed
from tests.runtime.raw_server import eventually

QUICK = DiscoverySettings(
    watch=True,
    poll_interval=0.001,
    settle=0.001,
    resolve_interval=30.0,
    retry_interval=0.001,
    resolve_timeout=5.0,
)


class Names:
    """A name server: what it knows can change, and it counts what it is asked."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = dict(known)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        if host not in self.known:
            raise OSError(-2, "Name or service not known")
        return self.known[host]


class World:
    """One file, one name server, and all that discovery has told."""

    def __init__(self, path: Path, names: Names, settings: DiscoverySettings) -> None:
        self.path, self.names = path, names
        self.told: list[dict[str, str]] = []
        self.specs: Sequence[EndpointSpec] = ()
        self._changed = asyncio.Event()
        self.now = 0.0
        self.discovery = FileDiscovery(path, settings, self._take, clock=lambda: self.now, resolve=names)

    def _take(self, specs: Sequence[EndpointSpec]) -> None:
        self.specs = specs
        self.told.append({spec.name: spec.address for spec in specs})
        self._changed.set()

    def write(self, text: str) -> None:
        """As an editor does: a new file in the old one's place."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    async def change(self) -> dict[str, str]:
        """The next list that is told."""
        async with asyncio.timeout(10):
            await self._changed.wait()
        self._changed.clear()
        return self.told[-1]

    async def until(self, expected: str) -> None:
        """Rounds, until the detail says so."""
        async with asyncio.timeout(10):
            while expected not in self.discovery.detail():  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.001)

    async def until_due(self, host: str) -> None:
        """Time passes until the name is looked up again, and told."""
        asked = self.names.asked
        self.now = self.discovery._names[host, 80].due
        self.discovery._names_due.set()
        await eventually(lambda: self.names.asked > asked)
        await eventually(lambda: self.discovery._names[host, 80].due > self.now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.discovery.start()
        self._changed.clear()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.discovery.run())
            yield
            task.cancel()


def world(tmp_path: Path, text: str, settings: DiscoverySettings = QUICK, **known: Sequence[str]) -> World:
    path = tmp_path / "endpoints.yaml"
    path.write_text(text)
    return World(path, Names(**known), settings)


def listed(**entries: str) -> str:
    """A file in which each name has this address."""
    lines = [f'- {{name: {name}, address: "{address}", port: 80}}' for name, address in entries.items()]
    return "\n".join(["endpoints:", *lines]) + "\n"


def authority(file: Path) -> None:
    file.write_bytes(self_signed(dt.datetime.now(dt.UTC)).chain)


async def test_start_tells_the_whole_list(tmp_path: Path) -> None:
    text = """\
endpoints:
- {name: a, address: 10.0.0.1, port: "80", labels: {x: "1"}, engine: vllm}
- {name: b, address: "::1", port: 81, scheme: https, caFile: ca.pem, apiKeyFile: /run/key}
- {name: c, address: studio, port: 82, tier: 1}
"""
    authority(tmp_path / "ca.pem")
    here = world(tmp_path, text, studio=["10.0.0.9"])
    await here.discovery.start()
    assert here.told[-1] == {"a": "10.0.0.1:80", "b": "[::1]:81", "c": "10.0.0.9:82"}
    a, b, c = here.specs
    assert (a.labels, a.engine, a.host_name) == ({"x": "1"}, "vllm", "")
    assert (b.scheme, b.ca_file, b.api_key_file) == ("https", str(tmp_path / "ca.pem"), "/run/key")
    assert c.host_name == "studio"
    assert [(spec.tier, spec.identity) for spec in here.specs] == [(0, ""), (0, ""), (1, "studio/0")]
    assert here.discovery.detail() == ""


@pytest.mark.parametrize(
    "make, message",
    [
        pytest.param(
            Path.unlink,
            "--endpoints-file: {} cannot be read (No such file or directory): check the path",
            id="missing",
        ),
        pytest.param(lambda path: path.write_text("endpoints: ["), "{}:2: is not valid YAML", id="syntax"),
        pytest.param(
            lambda path: path.write_text("endpoints:\n- {nam: a}"),
            '{}:2: endpoints[0].nam: unknown field, did you mean "name"?',
            id="field",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"\xff\xfe"),
            "--endpoints-file: {} is not UTF-8 text (byte 0): save it as UTF-8",
            id="not text",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"#" * (1 << 20) + b"\n\n"),
            "--endpoints-file: {} is larger than 1 MiB",
            id="large",
        ),
        pytest.param(
            lambda path: (path.unlink(), os.mkfifo(path)),
            "--endpoints-file: {} is a pipe: give a regular file",
            id="pipe",
        ),
        pytest.param(
            lambda path: (path.unlink(), path.mkdir()),
            "--endpoints-file: {} is a directory: give a file",
            id="directory",
        ),
    ],
)
async def test_a_file_that_cannot_be_used_stops_the_start(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    here = world(tmp_path, "")
    make(here.path)
    with pytest.raises(StartError) as caught:
        await here.discovery.start()
    assert str(caught.value).startswith(message.format(here.path))
    assert "\n" not in str(caught.value) and not here.told


async def test_what_names_the_file_is_named_with_its_fault(tmp_path: Path) -> None:
    here = world(tmp_path, "", DiscoverySettings(named_by="config.yaml:3: plugins[0].parameters.path"))
    here.path.unlink()
    with pytest.raises(StartError, match=r"^config\.yaml:3: plugins\[0\]\.parameters\.path: /"):
        await here.discovery.start()


VERIFIED = '- {name: tls, address: 10.0.0.9, port: 443, scheme: https, caFile: "ca.pem"}\n'


@pytest.mark.parametrize(
    "make, fault",
    [
        pytest.param(
            lambda file: None, "cannot be read (No such file or directory): check the path", id="missing"
        ),
        pytest.param(
            lambda file: file.write_text("x"), "holds nothing in PEM form: give a PEM file", id="no-pem"
        ),
        pytest.param(os.mkfifo, "is a pipe: give a regular file", id="pipe"),
    ],
)
async def test_a_ca_file_that_is_none_is_the_fault_of_the_list(
    make: Callable[[Path], object], fault: str, tmp_path: Path
) -> None:
    make(file := tmp_path / "ca.pem")
    here = world(tmp_path, listed(a="10.0.0.1") + VERIFIED)
    with pytest.raises(StartError) as caught:
        await here.discovery.start()
    assert str(caught.value).startswith(f"{here.path}:3: endpoints[1].caFile: {file} {fault}")


async def test_a_list_with_a_ca_file_that_is_none_is_not_taken_over(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        here.write(listed(a="10.0.0.2") + VERIFIED)
        await here.until("endpoints[1].caFile")
        assert here.told == [{"a": "10.0.0.1:80"}]
        authority(tmp_path / "ca.pem")
        here.write(listed(a="10.0.0.2") + VERIFIED)
        assert await here.change() == {"a": "10.0.0.2:80", "tls": "10.0.0.9:443"}


async def test_two_endpoints_at_one_address_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = """\
endpoints:
- {name: a, address: 10.0.0.1, port: 80}
- {name: b, address: 10.0.0.1, port: 80, namespace: lab}
- {name: c, address: 10.0.0.1, port: 81}
- {name: studio, address: studio, port: 81}
"""
    here = world(tmp_path, text, studio=["10.0.0.1"])
    await here.discovery.start()
    assert len(here.specs) == 4, "they are taken all the same"
    assert {record.getMessage() for record in caplog.records} == {
        "endpoints have the same address: list each server once"
    }
    assert [record.fields for record in caplog.records] == [
        {"endpoints": "default/a and lab/b", "address": "10.0.0.1:80"},
        {"endpoints": "default/c and default/studio", "address": "10.0.0.1:81"},
    ], "each once, though the list is told twice: before and after the lookup"


async def test_a_changed_file_is_taken_over(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        here.write(listed(a="10.0.0.1", b="10.0.0.2"))
        assert await here.change() == {"a": "10.0.0.1:80", "b": "10.0.0.2:80"}
        here.write("endpoints: []")
        assert await here.change() == {}


async def test_a_mounted_config_map_is_followed_through_its_links(tmp_path: Path) -> None:
    for version, address in (("v1", "10.0.0.1"), ("v2", "10.0.0.2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "endpoints.yaml").write_text(listed(a=address))
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "endpoints.yaml").symlink_to("data/endpoints.yaml")
    here = World(tmp_path / "endpoints.yaml", Names(), QUICK)
    async with here.running():
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").replace(tmp_path / "data")
        assert await here.change() == {"a": "10.0.0.2:80"}


async def test_a_broken_file_keeps_the_last_good_list_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        here.write("endpoints: [")
        await here.until("is not valid YAML")
        assert families(here) == {"errors_total": 1, "valid": 0}
        here.path.unlink()
        await here.until("cannot be read")
        here.write(listed(a="10.0.0.3"))
        assert await here.change() == {"a": "10.0.0.3:80"}
        assert here.discovery.detail() == ""
        assert families(here) == {"errors_total": 2, "valid": 1}
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.message for record in said] == ["endpoints file not usable, the last good list stays"] * 2
    assert here.told == [{"a": "10.0.0.1:80"}, {"a": "10.0.0.3:80"}]


async def test_a_pipe_in_the_files_place_keeps_the_last_good_list(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "pipe").replace(here.path)
        await here.until("is a pipe: give a regular file")
        here.write(listed(a="10.0.0.2"))
        assert await here.change() == {"a": "10.0.0.2:80"}


class Stuck:
    """A file system that stops answering."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = threading.Event()
        self.answers.set()
        read = files.read

        def slowly(path: Path) -> tuple[bytes, os.stat_result]:
            assert self.answers.wait(20)
            return read(path)

        monkeypatch.setattr(files, "read", slowly)


async def test_a_file_system_that_hangs_stops_neither_the_loop_nor_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(monkeypatch)
    here = world(tmp_path, listed(a="studio"), replace(QUICK, patience=0.01), studio=["10.0.0.1"])
    async with here.running():
        stuck.answers.clear()
        here.write(listed(a="studio", b="10.0.0.2"))
        await here.until("no answer from its file system for 0.01 s")
        assert families(here) == {"errors_total": 1, "valid": 0}
        here.names.known["studio"] = ["10.0.0.7"]
        here.now += 31
        here.discovery.recheck("studio")
        assert await here.change() == {"a": "10.0.0.7:80"}
        stuck.answers.set()
        assert await here.change() == {"a": "10.0.0.7:80", "b": "10.0.0.2:80"}
        assert here.discovery.detail() == ""
    said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert said == ["endpoints file not usable, the last good list stays"]


async def test_a_file_system_that_hangs_at_the_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch)
    stuck.answers.clear()
    here = world(tmp_path, listed(a="10.0.0.1"), replace(QUICK, patience=0.01))
    async with asyncio.TaskGroup() as group:
        group.create_task(here.discovery.start(), name="start")
        await here.until("no answer from its file system")
        stuck.answers.set()
    assert here.told == [{"a": "10.0.0.1:80"}] and here.discovery.detail() == ""


async def test_a_file_system_that_hangs_does_not_hold_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(monkeypatch)
    here = world(tmp_path, listed(a="10.0.0.1"), replace(QUICK, patience=0.01))
    async with here.running():
        stuck.answers.clear()
        here.discovery.reread()
        await here.until("no answer")
    stuck.answers.set()


async def test_the_same_fault_in_a_new_file_is_counted_but_not_said_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"))
    async with here.running():
        for times in (1, 2, 3):
            here.write("endpoints: [")
            await eventually(lambda times=times: here.discovery.errors == times)
        assert families(here) == {"errors_total": 3, "valid": 0}
        said = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(said) == 1
        here.write("endpoints: 7")
        await eventually(lambda: here.discovery.errors == 4)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2


def families(here: World) -> dict[str, float]:
    prefix = "fleet_epp_endpoints_file_"
    return {
        family.name.removeprefix(prefix): value
        for family in here.discovery.families()
        if family.name.startswith(prefix)
        for value in family.values.values()
        if isinstance(value, float)
    }


async def test_without_watch_the_file_is_read_once(tmp_path: Path) -> None:
    here = world(
        tmp_path, listed(a="studio"), DiscoverySettings(watch=False, retry_interval=0), studio=["10.0.0.1"]
    )
    async with here.running():
        here.write(listed(a="10.0.0.2"))
        here.names.known["studio"] = ["10.0.0.7"]
        here.now = 100.0
        here.discovery.recheck("studio")
        assert await here.change() == {"a": "10.0.0.7:80"}


async def test_a_file_that_is_not_followed_is_read_again_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(tmp_path, listed(a="10.0.0.1"), replace(QUICK, watch=False))
    with caplog.at_level(logging.INFO, logger="epp.discovery"):
        async with here.running():
            here.write(listed(a="10.0.0.2"))
            here.discovery.reread()
            assert await here.change() == {"a": "10.0.0.2:80"}
            here.discovery.reread()
            await eventually(lambda: len(caplog.records) == 2)
            here.write("endpoints: [")
            here.discovery.reread()
            await here.until("is not valid YAML")
            here.discovery.reread()
            await eventually(lambda: len(caplog.records) == 4)  # who asks is told, though it is as before
    taken, again, broken, still = (record.message for record in caplog.records)
    assert taken == again == "endpoints file taken over"
    assert broken == still == "endpoints file not usable, the last good list stays"


async def test_names_are_looked_up_again_when_asked_for(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="studio"), studio=["10.0.0.1"])
    async with here.running():
        here.names.known["studio"] = ["10.0.0.2"]
        here.discovery.reread()
        assert await here.change() == {"a": "10.0.0.2:80"}


async def test_every_address_of_a_name_is_an_endpoint_in_a_stable_order(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="studio"), studio=["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    async with here.running():
        assert here.told == [{"a": "10.0.0.1:80", "a-1": "10.0.0.2:80", "a-2": "10.0.0.3:80"}]
        here.names.known["studio"] = ["10.0.0.3", "10.0.0.1", "10.0.0.2"]
        here.now += 31
        here.discovery.recheck("studio")
        here.names.known["studio"] = ["10.0.0.3", "10.0.0.4", "10.0.0.2"]
        here.now += 31
        here.discovery.recheck("studio")
        assert await here.change() == {"a": "10.0.0.4:80", "a-1": "10.0.0.2:80", "a-2": "10.0.0.3:80"}


async def test_an_address_keeps_its_name_when_others_come_and_go(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="studio"), studio=["10.0.0.1"])
    async with here.running():
        for addresses, told in (
            (["10.0.0.1", "10.0.0.2"], {"a": "10.0.0.1:80", "a-1": "10.0.0.2:80"}),
            (["10.0.0.2"], {"a-1": "10.0.0.2:80"}),
            (["10.0.0.2", "10.0.0.3"], {"a": "10.0.0.3:80", "a-1": "10.0.0.2:80"}),
        ):
            here.names.known["studio"] = addresses
            here.now += 31
            here.discovery.recheck("studio")
            assert await here.change() == told


async def test_a_mac_with_a_new_lease_is_the_endpoint_it_was(tmp_path: Path) -> None:
    here = world(tmp_path, listed(mac="studio", gpu="10.0.0.2"), studio=["10.0.0.1"])
    fleet = Fleet()
    async with here.running():
        fleet.replace(here.specs, 0.0)
        mac, gpu = fleet.endpoints
        here.names.known["studio"] = ["10.0.0.7"]
        here.now += 31
        here.discovery.recheck("studio")
        await here.change()
        fleet.replace(here.specs, 1.0)
        assert fleet.endpoints == (mac, gpu) and mac.address == "10.0.0.7:80"
        here.write(listed(mac="studio", gpu="10.0.0.3"))
        await here.change()
        fleet.replace(here.specs, 2.0)
    assert fleet.endpoints[0] is mac and fleet.endpoints[1] is not gpu, "a literal address is the server"


async def test_a_name_that_resolves_no_more_keeps_its_addresses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = world(tmp_path, listed(a="studio", b="10.0.0.2"), studio=["10.0.0.1"])
    async with here.running():
        del here.names.known["studio"]
        here.now += 31
        await here.until("studio: Name or service not known")
        assert here.told[-1] == {"a": "10.0.0.1:80", "b": "10.0.0.2:80"}
        here.names.known["studio"] = ["10.0.0.5"]
        here.now += 31
        assert await here.change() == {"a": "10.0.0.5:80", "b": "10.0.0.2:80"}
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["host name does not resolve"]


async def test_a_name_unknown_at_the_start_is_tried_again(tmp_path: Path) -> None:
    here = world(tmp_path, listed(a="studio", b="10.0.0.2"))
    async with here.running():
        assert here.told == [{"b": "10.0.0.2:80"}]
        here.names.known["studio"] = ["10.0.0.1"]
        here.now += 31
        assert await here.change() == {"a": "10.0.0.1:80", "b": "10.0.0.2:80"}


async def test_a_name_server_that_never_answers_does_not_stop_the_start(tmp_path: Path) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    path = tmp_path / "endpoints.yaml"
    path.write_text(listed(a="studio", b="10.0.0.2"))
    told: list[int] = []
    settings = DiscoverySettings(start_timeout=1.0)
    discovery = FileDiscovery(
        path, settings, lambda specs: told.append(len(specs)), clock=lambda: 0.0, resolve=never
    )
    async with asyncio.TaskGroup() as group:
        start = group.create_task(discovery.start(), name="start")
        await eventually(lambda: told)
        assert told == [1] and not start.done(), "literal addresses wait for no name server"
    assert told == [1]
    assert discovery.detail() == "studio: no answer within 1 s"


async def test_broken_connections_cause_one_lookup_not_many(tmp_path: Path) -> None:
    settings = DiscoverySettings(watch=True, poll_interval=0.001, settle=0, retry_interval=2.0)
    here = world(tmp_path, listed(a="studio"), settings, studio=["10.0.0.1"])
    async with here.running():
        for _ in range(100):
            here.discovery.recheck("studio")
        here.write(listed(a="studio", b="10.0.0.2"))
        await here.change()
        assert here.names.asked == 1
        here.now += 3
        here.names.known["studio"] = ["10.0.0.8"]
        for _ in range(100):
            here.discovery.recheck("studio")
        await here.change()
        assert here.names.asked == 2


async def test_after_a_loss_a_name_is_looked_up_until_it_changes(tmp_path: Path) -> None:
    """A server that moves has its new address some time after the old one is dead."""
    settings = DiscoverySettings(watch=False, resolve_interval=30.0, retry_interval=2.0)
    here = world(tmp_path, listed(a="studio"), settings, studio=["10.0.0.1"])
    async with here.running():
        here.now = 1.0  # less than the interval after the first lookup
        here.discovery.recheck("studio")
        asked_at = []
        for _ in range(6):
            await here.until_due("studio")
            asked_at.append(here.now)
        assert asked_at == [2.0, 4.0, 8.0, 16.0, 32.0, 62.0]
        here.names.known["studio"] = ["10.0.0.2"]
        here.discovery.recheck("studio")
        await here.until_due("studio")
        assert here.told[-1] == {"a": "10.0.0.2:80"}
        await here.until_due("studio")
        assert here.now == 64.0 + 30.0, "no doubt is left"


async def test_two_endpoints_never_share_a_name(tmp_path: Path) -> None:
    text = "{endpoints: [{name: a, address: studio, port: 1}, {name: a-1, address: 10.0.0.9, port: 1}]}"
    here = world(tmp_path, text, studio=["10.0.0.1", "10.0.0.2"])
    await here.discovery.start()
    written = {"a": "10.0.0.1:1", "a-1": "10.0.0.9:1"}
    assert here.told[-1] == {**written, "a-1@studio": "10.0.0.2:1"}, "as written, whatever a name brings"


async def test_after_the_end_no_task_is_left(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    here = world(tmp_path, listed(a="studio"), studio=["10.0.0.1"])
    async with here.running():
        pass
    assert asyncio.all_tasks() == before


async def test_a_real_name_resolves_to_one_family() -> None:
    assert await resolve("localhost", 80) in (["127.0.0.1"], ["::1"])


ADDRESSES = st.lists(st.sampled_from([f"10.0.0.{n}" for n in range(6)]), max_size=6)


@given(answers=st.lists(ADDRESSES, max_size=8))
def test_an_address_keeps_its_number_as_long_as_it_is_there(answers: list[list[str]]) -> None:
    name, before = _Name(), {}
    for answer in answers:
        name.take(answer)
        assert sorted(address for _, address in name.numbered()) == sorted(set(answer))
        numbers = {slot: number for number, slot in enumerate(name.slots) if slot is not None}
        assert all(numbers[address] == number for address, number in before.items() if address in numbers)
        before = numbers


@given(answers=st.lists(ADDRESSES.filter(bool), min_size=1, max_size=6))
def test_a_server_behind_a_name_is_what_it_was_at_any_address(answers: list[list[str]]) -> None:
    """Whatever the name server says: one identity for one endpoint name, and none is there twice."""
    discovery = FileDiscovery(Path("f"), QUICK, lambda _: None, clock=lambda: 0.0)
    entries = parse_endpoints(
        "endpoints: [{name: a, address: studio, port: 1}, {name: b, address: studio, port: 2}]", "f"
    )
    discovery._names = {("studio", 1): _Name(), ("studio", 2): _Name()}
    identities: dict[str, str] = {}
    for answer in answers:
        for name in discovery._names.values():
            name.take(answer)
        specs = [spec for entry in entries for spec in discovery._specs_of(entry, {("default", "a")})]
        assert len({spec.name for spec in specs}) == len(specs) == 2 * len(set(answer))
        for spec in specs:
            assert identities.setdefault(spec.name, spec.identity) == spec.identity
            assert spec.identity == f"studio/{spec.name.partition('-')[2] or 0}"
