"""Objects from files, as people keep them."""

import io
import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.commands import files, manifests
from epp.commands.files import Loaded, load, locate
from epp.compiler.findings import Finding, Origin, error
from epp.config import decode
from epp.config.flags import UsageError

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"


def put(folder: Path, **texts: str) -> str:
    """Files by name, with ``_`` for the dot."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(folder)


def names(loaded: Loaded) -> list[str]:
    return [one.name for one in loaded.documents]


def told(loaded: Loaded) -> list[str]:
    return [f"{one.severity} {one.origin.place} {one.code}: {one.message}" for one in loaded.findings]


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    folder = put(tmp_path, a_yaml=CONFIG_MAP % "a")
    os.mkfifo(tmp_path / "b.yaml")
    assert names(load([folder])) == ["a"]


def test_a_directory_is_read_with_all_below_it_but_what_is_hidden(tmp_path: Path) -> None:
    put(
        tmp_path,
        b_yaml=CONFIG_MAP % "b",
        a__x_yml=CONFIG_MAP % "x",
        c_json=json.dumps({"apiVersion": "v1", "kind": "A"}),
    )
    put(tmp_path, a_txt="no", **{".git__y_yaml": CONFIG_MAP % "hidden"})
    loaded = load([str(tmp_path)])
    assert [Path(one.place).name for one in loaded.documents] == ["b.yaml:1", "c.json:1", "x.yml:1"]
    assert loaded.findings == ()


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, a_yaml=CONFIG_MAP % "a")
    assert names(load([str(tmp_path), str(tmp_path / "a.yaml")])) == ["a"]


def test_standard_input_is_a_dash() -> None:
    loaded = load(["-"], io.StringIO(CONFIG_MAP % "a"))
    assert (names(loaded), loaded.documents[0].place) == (["a"], "stdin:1")


def test_several_documents_in_a_file_know_their_lines(tmp_path: Path) -> None:
    put(tmp_path, a_yaml="---\n# nothing\n---\n" + CONFIG_MAP % "a" + "---\n" + CONFIG_MAP % "b" + "---\n")
    loaded = load([str(tmp_path / "a.yaml")])
    assert [one.place.rpartition(":")[2] for one in loaded.documents] == ["4", "8"]


@pytest.mark.parametrize("kind", ["List", "ConfigMapList"])
@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump], ids=["json", "yaml"])
def test_a_list_is_its_items(kind: str, dump: Any) -> None:
    items = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}} for name in "ab"]
    loaded = load(["-"], io.StringIO(dump({"apiVersion": "v1", "kind": kind, "items": items})))
    assert names(loaded) == ["a", "b"]


def test_values_are_what_an_api_server_would_see() -> None:
    text = (
        CONFIG_MAP % "a"
        + 'data: {"on": "yes", number: 8, share: 0.5, flag: true, none: null, list: [1, a]}\n'
    )
    (document,) = load(["-"], io.StringIO(text)).documents
    assert document.content["data"] == {
        "on": "yes",
        "number": 8,
        "share": 0.5,
        "flag": True,
        "list": [1, "a"],
    }


class TestFaults:
    def test_what_is_not_there_is_a_mistake_on_the_command_line(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"-f .*/no\.yaml: there is no such file or directory"):
            load([str(tmp_path / "no.yaml")])

    def test_so_is_a_directory_with_nothing_to_read(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there is no file in it that ends with \.yaml, \.yml, \.json"):
            load([str(tmp_path)])

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("a: [", "did not find expected node content"),
            ("a: 1\na: 2\n", '"a" is there twice, first in line 1'),
            ("a: !!python/object:x {}\n", "is not supported, write a plain value"),
            ("a: {{ .Values.a }}\n", "is it a template? give what it renders to"),
            ('{"a": 1, "a": 2}', '"a" is there twice'),
        ],
    )
    def test_a_file_that_cannot_be_read_leaves_the_others(
        self, tmp_path: Path, text: str, expected: str
    ) -> None:
        put(tmp_path, bad_yaml=text, good_yaml=CONFIG_MAP % "good")
        loaded = load([str(tmp_path)])
        assert names(loaded) == ["good"]
        (found,) = told(loaded)
        assert found.startswith(f"error {tmp_path}/bad.yaml")
        assert expected in found

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00a")
        assert told(load([str(tmp_path)])) == [f"error {tmp_path}/a.yaml Unreadable: is not UTF-8 text"]

    def test_yaml_that_is_no_object_is_left_out_where_it_was_found(self, tmp_path: Path) -> None:
        put(tmp_path, values_yaml="replicas: 2\n", a_yaml=CONFIG_MAP % "a")
        loaded = load([str(tmp_path)])
        assert names(loaded) == ["a"]
        (found,) = told(loaded)
        assert found.startswith(f"info {tmp_path}/values.yaml:1 NoObject: holds no object of Kubernetes")

    @pytest.mark.parametrize("text", ["replicas: 2\n", "", "# only this\n", "- a\n", "kind: A\n"])
    def test_and_is_an_error_where_it_was_named(self, tmp_path: Path, text: str) -> None:
        put(tmp_path, values_yaml=text)
        (found,) = load([str(tmp_path / "values.yaml")]).findings
        assert (found.severity, found.code) == ("error", "NoObject")

    def test_an_object_that_is_there_twice(self, tmp_path: Path) -> None:
        put(
            tmp_path, a_yaml=CONFIG_MAP % "x", b_yaml=CONFIG_MAP % "x", c_yaml=CONFIG_MAP % "x" + "data: {}\n"
        )
        loaded = load([str(tmp_path)])
        assert names(loaded) == ["x"]
        same, other = told(loaded)
        assert same == f"info {tmp_path}/b.yaml:1 DuplicateObject: is the same in {tmp_path}/a.yaml:1"
        assert other.startswith(
            f"error {tmp_path}/c.yaml:1 DuplicateObject: is another one in {tmp_path}/a.yaml:1"
        )

    def test_configurations_without_a_name_are_not_the_same(self, tmp_path: Path) -> None:
        """As kustomizations are."""
        text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{0}]\n"
        put(tmp_path, a_yaml=text.format("a"), b_yaml=text.format("b"))
        loaded = load([str(tmp_path)])
        assert (len(loaded.documents), loaded.findings) == (2, ())

    def test_what_is_no_object_is_kept_apart(self, tmp_path: Path) -> None:
        """For lint, which reads the values of Helm charts."""
        put(tmp_path, values_yaml="replicas: 2\n", a_yaml=CONFIG_MAP % "a", list_yaml="- a\n")
        (values,) = load([str(tmp_path)]).values
        assert (values.content, values.place) == ({"replicas": 2}, f"{tmp_path}/values.yaml:1")


class TestPlaces:
    TEXT = """\
apiVersion: v1
kind: A
metadata:
  annotations:
    fleet-epp.dev/x: y
spec:
  models:
  - name: a
  - name: b
    pods:
      app: x
"""

    @pytest.mark.parametrize(
        "path, line",
        [
            ("spec", 6),
            ("spec.models[0]", 8),
            ("spec.models[1].pods.app", 11),
            ("spec.models[b].pods", 10),
            ("spec.models[c].pods", 7),
            ("spec.models[7]", 7),
            ("metadata.annotations.fleet-epp.dev/x", 5),
            ("spec.modles", 6),
            ("", 1),
        ],
    )
    def test_a_field_is_found_or_what_is_next_to_it(self, path: str, line: int) -> None:
        assert locate(decode.parse(self.TEXT, "a.yaml"), path).line == line

    def test_a_finding_is_placed_at_its_field(self) -> None:
        loaded = load(["-"], io.StringIO(self.TEXT))
        found = error("C", loaded.documents[0].origin.at("spec.models[b].pods"), "m", "f")
        assert [one.origin.place for one in loaded.findings_with([found])] == ["stdin:10"]

    def test_a_finding_about_a_cluster_stays_as_it_is(self) -> None:
        found = Finding(error("C", Origin("A", "n", "a"), "m", "f").severity, "C", Origin("A", "n", "a"), "m")
        assert Loaded(()).located(found) is found


SCALARS = st.text(alphabet=string.printable, max_size=12) | st.integers(-(10**9), 10**9) | st.booleans()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc./-", min_size=1, max_size=5), inner, max_size=3)
    ),
)
OBJECTS = st.builds(
    lambda name, spec: {"apiVersion": "v1", "kind": "A", "metadata": {"name": f"n{name}"}, "spec": spec},
    st.integers(0, 10**9),
    VALUES,
)


@given(
    objects=st.lists(OBJECTS, max_size=4, unique_by=lambda one: one["metadata"]["name"]),
    as_json=st.booleans(),
)
def test_what_was_written_is_what_is_read(objects: list[dict[str, Any]], as_json: bool) -> None:
    text = (
        json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        if as_json
        else "".join(f"---\n{manifests.text_of(one)}" for one in objects)
    )
    loaded = load(["-"], io.StringIO(text))
    assert [dict(one.content) for one in loaded.documents] == objects


@given(text=st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!'\"ab \n#|>%@<?", max_size=80))
def test_nothing_makes_it_raise(text: str) -> None:
    loaded = load(["-"], io.StringIO(text))
    assert loaded.documents or loaded.findings


@given(path=st.text(alphabet="abspecmodels.[]0123x/", max_size=30))
def test_every_path_leads_somewhere(path: str) -> None:
    section = decode.parse(TestPlaces.TEXT, "a.yaml")
    assert 1 <= locate(section, path).line <= 11


def test_the_flag_adds_up() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    files.add_file(parser)
    assert parser.parse_args(["-f", "a", "--file", "b"]).files == ["a", "b"]
