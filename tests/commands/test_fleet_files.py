"""What ``epp controller`` takes of its fleet files, and tells: a slip in one deletes nothing."""

from pathlib import Path

import pytest

from epp.commands.controller import _details, _fleet
from epp.controller.files import Unreadable
from epp.controller.loop import Controller

GOOD = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: site, namespace: llm}
gateway: edge/main
models:
- {name: qwen, pods: {app: qwen}}
"""
STAYS = "what it said last stays"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD.replace("name: site", "name: other"))
    return tmp_path


def names(*paths: Path) -> list[str]:
    return [one.name for one in _fleet([str(path) for path in paths])]


def fault(*paths: Path) -> str:
    with pytest.raises(Unreadable) as raised:
        names(*paths)
    assert STAYS in str(raised.value)
    return str(raised.value)


SLIPS = {
    "kind: fleet": 'yaml:2: kind: there is no kind "fleet" of fleet-epp.dev/v1alpha1: write "kind: Fleet"',
    "kind: Fleets": 'there is no kind "Fleets"',
    "kind: ConfigMap": 'there is no kind "ConfigMap"',
    "kind:": "holds no object of Kubernetes",
    "knd: Fleet": "holds no object of Kubernetes",
    "apiVersion: fleet.epp.dev/v1alpha1": 'yaml:1: apiVersion: there is no kind "Fleet" of fleet.epp.dev/v1',
    "metadata: {nme: site}": 'yaml:3: metadata.nme: unknown field: did you mean "name"?',
    "metadata: {name: site, namespace: 5}": "metadata.namespace: expected a string, got 5: put it in quotes",
    "metadata: {name: 5}": "metadata.name: expected a string, got 5: put it in quotes",
    "metadata: site": 'metadata.name: must be lower-case letters, digits and -, at most 63, got ""',
}


@pytest.mark.parametrize("line", SLIPS)
def test_a_fleet_that_does_not_say_which_it_is_keeps_what_was_said(folder: Path, line: str) -> None:
    replaced = {"knd": "kind"}.get(line.partition(":")[0], line.partition(":")[0])
    lines = [line if one.startswith(replaced) else one for one in GOOD.splitlines()]
    (folder / "a.yaml").write_text("\n".join(lines))
    for path in (folder, folder / "a.yaml"):
        assert SLIPS[line] in fault(path)


@pytest.mark.parametrize(
    "text", ["", "\n", "# models: none today\n", "---\n---\n", "{kind: List, items: []}"]
)
def test_an_empty_file_is_one_that_is_being_written(folder: Path, text: str) -> None:
    (folder / "a.yaml").write_text(text)
    assert fault(folder) == f"--fleet: {folder}/a.yaml: is empty: {STAYS} until the file is removed"
    assert "is empty" in fault(folder / "a.yaml")


def test_a_file_that_is_removed_is_a_fleet_that_is_not_wanted(folder: Path) -> None:
    assert names(folder) == ["site", "other"]
    (folder / "a.yaml").unlink()
    assert names(folder) == ["other"]
    (folder / "b.yaml").unlink()
    with pytest.raises(Unreadable, match="there is no file in it"):
        names(folder)


def test_what_stands_beside_a_fleet_is_taken_as_it_is(folder: Path) -> None:
    """Configurations of programs have no name, and others have Fleets of their own."""
    (folder / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1\nkind: Kustomization\n"
    )
    (folder / "theirs.yaml").write_text(
        "apiVersion: agones.dev/v1\nkind: Fleet\nmetadata: {name: a}\nspec: {}\n"
    )
    assert len(names(folder)) == 4


def test_the_readiness_page_counts_the_errors_among_the_inputs() -> None:
    of = Controller()
    assert _details(of, None) == {}
    of.errors, of.trouble = 2, ("--fleet: a.yaml: is empty",)
    assert _details(of, None) == {"trouble": ["--fleet: a.yaml: is empty"], "errors": 2}
