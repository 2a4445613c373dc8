"""Plugin types out of installed packages: ours, a user's, and broken ones."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import build, load
from epp.runtime.plugins import GROUP, PluginError, PluginTypes, load_types
from tests.picking import TYPES

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
EXAMPLE = HERE.parent / "plugin_example"


def types(**offered: str) -> PluginTypes:
    return PluginTypes(EntryPoint(name.replace("_", "-"), value, GROUP) for name, value in offered.items())


def test_the_installed_types_are_the_files_in_scorers() -> None:
    installed = load_types()
    ours = {name: installed[name] for name in installed if installed[name].__module__.startswith("scorers.")}
    assert ours == dict(TYPES)


def test_a_type_is_imported_only_when_it_is_looked_up() -> None:
    offered = types(broken="no.such.module:X", good="scorers.queue_scorer:QueueScorer")
    assert set(offered) == {"broken", "good"} and "broken" in offered and len(offered) == 2
    assert offered["good"] is TYPES["queue-scorer"]
    with pytest.raises(KeyError):
        offered["another"]


def test_a_type_is_imported_once_however_many_pools_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = types(good="scorers.queue_scorer:QueueScorer")
    first = offered["good"]
    monkeypatch.setattr(EntryPoint, "load", lambda entry: pytest.fail("imported again"))
    assert offered["good"] is first


@pytest.mark.parametrize(
    "value, reason",
    [
        (
            "no.such.module:X",
            " cannot be imported from no.such.module:X: ModuleNotFoundError: No module named 'no'",
        ),
        ("json:nothing", " cannot be imported from json:nothing: AttributeError"),
        ("json:loads", ": json:loads is no class"),
    ],
    ids=["no-module", "no-attribute", "a-function"],
)
def test_a_type_that_cannot_be_imported_is_named_with_file_and_line(value: str, reason: str) -> None:
    text = "apiVersion: llm-d.ai/v1\nkind: EndpointPickerConfig\nplugins: [{type: broken}]"
    with pytest.raises(ConfigError) as raised:
        build(load(text, "c.yaml"), types(broken=value))
    expected = f'c.yaml:3: plugins[0].type: the plugin type "broken" of an unnamed package{reason}'
    assert str(raised.value).startswith(expected)


def package(folder: pathlib.Path, name: str, *types: str, code: str = "class X: ...") -> None:
    """An installed package as pip leaves it."""
    info = folder / f"{name}-2.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    lines = "".join(f"{each} = {name}:X\n" for each in types)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


def run(folder: pathlib.Path, code: str) -> str:
    """What a fresh interpreter prints that has ``folder`` beside our own packages."""
    preamble = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", preamble + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_packages_with_one_type_are_both_named(tmp_path: pathlib.Path) -> None:
    package(tmp_path, "one", "same-scorer")
    package(tmp_path, "two", "same-scorer")
    said = run(
        tmp_path,
        """
        from epp.runtime.plugins import PluginError, load_types
        try:
            load_types()
        except PluginError as error:
            print(error)
        """,
    )
    assert re.fullmatch(
        r'the plugin type "same-scorer" is offered by (one|two) 2\.0 and by (one|two) 2\.0, uninstall one\n',
        said,
    )


def test_a_package_that_fails_to_import_is_named(tmp_path: pathlib.Path) -> None:
    package(tmp_path, "faulty", "faulty-scorer", code="raise RuntimeError('out of order')")
    said = run(
        tmp_path,
        """
        from epp.runtime.plugins import PluginError, load_types
        types = load_types()
        try:
            types["faulty-scorer"]
        except PluginError as error:
            print(error)
        """,
    )
    assert said == (
        'the plugin type "faulty-scorer" of faulty 2.0 cannot be imported from faulty:X: '
        "RuntimeError: out of order\n"
    )


def test_one_package_offering_a_type_twice_is_refused() -> None:
    entry = EntryPoint("a", "json:loads", GROUP)
    with pytest.raises(PluginError, match='"a" is offered by'):
        PluginTypes([entry, EntryPoint("a", "json:dumps", GROUP)])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The package of docs/plugins.md, installed in a folder of its own."""
    source = tmp_path_factory.mktemp("source") / "hot_spare"
    target = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--target",
            str(target),
            str(source),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_a_users_package_is_found_configured_and_asked(installed: pathlib.Path) -> None:
    said = run(
        installed,
        """
        import json, random
        from epp.config.picker_config import build, load
        from epp.core.fleet import EndpointSpec, Fleet
        from epp.core.request import Request
        from epp.core.scheduling import Scheduler
        from epp.runtime.plugins import load_types

        text = '''
        apiVersion: llm-d.ai/v1alpha1
        kind: EndpointPickerConfig
        plugins: [{type: hot-spare-scorer, parameters: {label: example.com/spare}}]
        '''
        assembly = build(load(text, "c.yaml"), load_types())
        fleet = Fleet()
        fleet.replace([
            EndpointSpec(name="spare", ip="10.0.0.1", port=1, labels={"example.com/spare": ""}),
            EndpointSpec(name="main", ip="10.0.0.2", port=1),
        ], 0.0)
        scheduler = Scheduler(fleet, assembly.profile, assembly.producers, chance=random.Random(0))
        decision = scheduler.pick(Request(), 0.0)
        print(json.dumps([decision.endpoints[0].name, decision.scores, assembly.warnings]))
        """,
    )
    assert json.loads(said) == ["main", {"hot-spare-scorer": [0.0, 1.0]}, []]


def test_the_documentation_shows_exactly_that_package() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text()
    for file in ("hot_spare/__init__.py", "pyproject.toml"):
        assert (EXAMPLE / file).read_text() in text, file
