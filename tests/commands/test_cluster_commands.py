"""What ``controller``, ``plan`` and ``apply`` make of their arguments, and how a plan looks."""

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.commands import apply, controller, plan
from epp.commands.comparing import Compared, Paper, changes, in_order, show, summary, without_deletions
from epp.compiler.compile import Compiled
from epp.compiler.intent import Intent
from epp.controller.difference import Difference, Step, Verb, difference, key_of
from tests.controller.model_api import ModelApi
from tests.controller.objects import INVENTORY, emitted, foreign

GIVEN = ["-f", "fleet.yaml", "--target=gateway-api"]


@pytest.mark.parametrize(
    "command, arguments, said",
    [
        (plan, ["-f", "x"], "the following arguments are required: --target: see epp plan --help"),
        (
            plan,
            ["--target=gateway-api"],
            "the following arguments are required: -f/--file: see epp plan --help",
        ),
        (plan, ["-f", "x", "--target=nginx"], 'argument --target: "nginx" is none of'),
        (plan, [*GIVEN, "--inventory=bad name!"], 'argument --inventory: "bad name!" is no value of a label'),
        (controller, ["--target=gateway-api", "--picker=X Y"], 'argument --picker: "X Y" is no name of a'),
        (plan, [*GIVEN, "--gateway=main"], 'argument --gateway: "main" is no NAMESPACE/NAME: write as in'),
        (plan, ["-f", "nowhere.yaml", "--target=gateway-api"], "nowhere.yaml"),
        (apply, GIVEN, "nobody can be asked, standard input is no terminal: give --yes"),
        (controller, ["--target=gateway-api", "--lease=one"], '--lease: "one" is no NAMESPACE/NAME'),
        (controller, ["--target=gateway-api", "--flee=x"], "unrecognized arguments: --flee=x"),
        (
            controller,
            ["--target=gateway-api", "--metrics-port=99999"],
            "--metrics-port: 99999 is no port: give",
        ),
        (
            controller,
            ["--target=gateway-api", "--metrics-port=x"],
            '--metrics-port: "x" is not a whole number',
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    command: object,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert command.run(arguments) == 2  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("command, more", [(plan, []), (apply, ["--yes"])])
def test_without_a_cluster_it_says_what_to_do(
    command: object, more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    example = str(Path(__file__).parents[2] / "docs" / "examples" / "home-lab" / "fleet.yaml")
    assert command.run(["-f", example, "--target=gateway-api", *more]) == 1  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    name = command.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert error == (
        f"epp {name}: there is no Kubernetes API: run in a pod, set KUBECONFIG, write ~/.kube/config, or"
        " name a file with --kubeconfig; epp compile needs none\n"
    )
    assert command.run(["-f", example, "--target=gateway-api", "--kubeconfig=none", *more]) == 1  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert error.startswith(f"epp {name}: --kubeconfig none: cannot be read (No such file or directory)")


def steps() -> tuple[Step, ...]:
    """One of each kind."""
    api = ModelApi()
    api.objects |= {
        one.key: one.document for one in (emitted("Service", "gone"), emitted("Service", "b", a=1))
    }
    return difference(
        [emitted("Service", "b", a=2), emitted("Service", "new", a=1)], api.objects, inventory=INVENTORY
    ).steps


def test_a_change_is_its_lines_and_a_deletion_none() -> None:
    change, create, delete = steps()
    assert (change.verb, create.verb, delete.verb) == (Verb.CHANGE, Verb.CREATE, Verb.DELETE)
    assert [line for line in changes(change) if line[0] in "+-"] == ["-  a: 1", "+  a: 2"]
    lines = list(changes(create))
    assert lines[0].startswith("@@") and all(line[0] == "+" for line in lines[1:])
    assert list(changes(delete)) == []


def test_fields_that_have_only_moved_are_no_change() -> None:
    wanted = emitted("Service", "b", a=1, b=2).document
    metadata = dict(reversed(wanted["metadata"].items()))
    live = {**wanted, "spec": {"b": 3, "a": 1}}
    step = Step(Verb.CHANGE, key_of(wanted), frozenset(), {**wanted, "metadata": metadata}, live)
    assert [line for line in changes(step) if line[0] in "+-"] == ["-  b: 3", "+  b: 2"]


VALUES = st.recursive(
    st.integers(0, 3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
)


@given(VALUES, VALUES)
def test_order_is_all_that_is_changed_for_a_comparison(live: object, wanted: object) -> None:
    assert in_order(live, wanted) == live


def test_the_sum_names_each_kind_of_step() -> None:
    assert summary(steps()) == "1 to create, 1 to change, 1 to delete"
    assert summary(()) == "nothing to do: the cluster is as the files want it"
    assert summary(without_deletions(Difference(steps())).steps) == "1 to create, 1 to change, 0 to delete"


def test_a_plan_is_coloured_where_somebody_sees_it() -> None:
    compiled = Compiled((), (), frozenset(), Intent())
    api = {one["metadata"]["name"]: one for one in [foreign("Service", "theirs")]}
    taken = difference(
        [emitted("Service", "theirs")], {("Service", "models", "theirs"): api["theirs"]}, inventory=INVENTORY
    )
    compared = Compared(compiled, (), Difference(steps(), taken.conflicts), None)  # type: ignore[arg-type]
    plain, coloured = io.StringIO(), io.StringIO()
    show(compared, Paper(plain, color="auto"))
    show(compared, Paper(coloured, color="always"))
    assert "\x1b" not in plain.getvalue()
    assert "\x1b[31m    -  a: 1\x1b[0m" in coloured.getvalue()
    assert re.sub("\x1b\\[[0-9]+m", "", coloured.getvalue()) == plain.getvalue()
    assert "error: Service models/theirs: it was made and has no label" in plain.getvalue()
    assert compared.has_errors
