"""Real parts, started once for all system tests and brought back when a test has ended one.

A test that has a picker among its parts runs on each driver (``epp serve --server``), and its id names the
driver. What does not depend on who speaks HTTP/2 is marked ``default_driver`` and runs once; what is about
one driver is marked ``driver("fast")``. The llama.cpp servers are shared by all; picker and Envoy are there
once for each driver.
"""

import re
import resource
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.rig.envoy import Envoy
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import Process, wait_until
from epp.config.flags import parse
from tests.system.cluster import USERS, Stage, furnish
from tests.system.kube_plane import MISSING, ControlPlane, is_possible
from tests.system.listeners import HINTED, LISTENERS
from tests.system.talk import footprint, reachability, wait_at_rest, wait_footprint

_logs = pytest.StashKey[Path]()
_DEFAULT = parse(["--endpoints-file=servers.yaml"], {}).server
DRIVERS = sorted(("fast", "grpcio"), key=lambda one: one != _DEFAULT)
"""The default first."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "default_driver: the subject does not depend on the gRPC driver")
    config.addinivalue_line("markers", "driver(name): the subject is this driver")
    # a shell's `pytest … &` ignores it, and so would every process started here
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" in metafunc.fixturenames:
        once = metafunc.definition.get_closest_marker("default_driver") is not None
        only = metafunc.definition.get_closest_marker("driver")
        names = only.args if only is not None else DRIVERS[:1] if once else DRIVERS
        metafunc.parametrize("driver", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest) -> str:
    """Who speaks HTTP/2 in the pickers of this test."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _enough_descriptors() -> None:
    """Thousands of connections: as many descriptors as are allowed, for us and all that we start."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Where the parts write; what they wrote last is shown with a failure."""
    path = tmp_path_factory.mktemp("rig")
    pytestconfig.stash[_logs] = path
    return path


@pytest.fixture(scope="session")
def _servers(logs: Path) -> Iterator[list[LlamaServer]]:
    with ExitStack() as stack:
        # All three load at the same time.
        servers = [LlamaServer(logs=logs, name=f"llama-{n}", slots=4, context=4096) for n in range(3)]
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait_ready()
        yield servers


@contextmanager
def _shared(picker: Picker) -> Iterator[Picker]:
    """Started once for many tests; when all have gone, nothing is left of them."""
    with picker:
        wait_until(lambda: set(reachability(picker).values()) == {"up"}, what="all servers seen")
        before = footprint(picker)
        yield picker
        if picker.is_running:
            wait_at_rest(picker)
            wait_footprint(picker, before)
            assert "Traceback" not in picker.log.read_text()


@pytest.fixture(scope="session")
def _picker(logs: Path, driver: str, _servers: list[LlamaServer]) -> Iterator[Picker]:
    listed = {server.name: server.address for server in _servers}
    with _shared(Picker(logs=logs, endpoints=listed, driver=driver)) as picker:
        yield picker


@pytest.fixture(scope="session")
def _plain_picker(logs: Path, driver: str, _servers: list[LlamaServer]) -> Iterator[Picker]:
    listed = {server.name: server.address for server in _servers}
    plain = Picker(logs=logs, name="picker-plain", endpoints=listed, driver=driver, tls=False)
    with _shared(plain) as picker:
        yield picker


@pytest.fixture(scope="session")
def _gateway(logs: Path, _servers: list[LlamaServer], _picker: Picker) -> Iterator[Envoy]:
    addresses = [server.address for server in _servers]
    with Envoy(logs=logs, servers=addresses, picker=_picker.address, listeners=LISTENERS | HINTED) as envoy:
        yield envoy


@pytest.fixture
def servers(_servers: list[LlamaServer]) -> Iterator[list[LlamaServer]]:
    """Three llama.cpp servers with the tiny model, all alive at the start of a test."""
    yield _servers
    _bring_back(*_servers)


@pytest.fixture
def picker(_picker: Picker, servers: list[LlamaServer]) -> Iterator[Picker]:
    """Our picker over the three servers, with the default profile and TLS."""
    yield _picker
    _bring_back(_picker)


@pytest.fixture
def plain_picker(_plain_picker: Picker, servers: list[LlamaServer]) -> Iterator[Picker]:
    """Another one like it, without TLS."""
    yield _plain_picker
    _bring_back(_plain_picker)


@pytest.fixture(params=["tls", "plaintext"])
def each_picker(request: pytest.FixtureRequest, picker: Picker, plain_picker: Picker) -> Picker:
    """With TLS and without."""
    return picker if request.param == "tls" else plain_picker


@pytest.fixture
def gateway(_gateway: Envoy, picker: Picker) -> Iterator[Envoy]:
    """An Envoy with one listener per dialect (LISTENERS), in front of picker and servers."""
    yield _gateway
    _bring_back(_gateway)


@pytest.fixture(scope="session")
def plane(logs: Path) -> Iterator[ControlPlane]:
    """A Kubernetes API with InferencePools, and our rights in the namespace of the tests."""
    if not is_possible():
        pytest.skip(MISSING)
    with ControlPlane(logs, users=USERS) as plane:
        furnish(plane)
        yield plane


@pytest.fixture
def stage(plane: ControlPlane, logs: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Objects, servers and pickers of one test."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    with ExitStack() as parts:
        yield Stage(plane, logs, name, parts)


def _bring_back(*parts: Process) -> None:
    for part in parts:
        if not part.is_running:
            part.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    folder = item.config.stash.get(_logs, None)
    if report.failed and folder is not None:
        written = [log for log in folder.glob("**/*.log") if log.stat().st_mtime >= call.start]
        for log in sorted(written):
            lines = log.read_text(errors="replace").splitlines()[-20:]
            report.sections.append((str(log), "\n".join(lines)))
    return report
