"""What ``controller``, ``plan`` and ``apply`` make of their arguments, and how a plan looks."""

import io
import re
from pathlib import Path

import pytest

from epp.commands import apply, controller, plan
from epp.commands.comparing import Compared, Paper, changes, show, summary, without_deletions
from epp.compiler.compile import Compiled
from epp.compiler.intent import Intent
from epp.controller.difference import Difference, Step, Verb, difference
from tests.controller.model_api import ModelApi
from tests.controller.objects import emitted, foreign

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
        (plan, [*GIVEN, "--gateway=main"], 'argument --gateway: "main" is no NAMESPACE/NAME: write as in'),
        (plan, ["-f", "nowhere.yaml", "--target=gateway-api"], "nowhere.yaml"),
        (apply, GIVEN, "nobody can be asked, standard input is no terminal: give --yes"),
        (controller, ["--target=gateway-api", "--lease=one"], '--lease: "one" is no NAMESPACE/NAME'),
        (controller, ["--target=gateway-api", "--flee=x"], "unrecognized arguments: --flee=x"),
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
    assert "there is no Kubernetes API: run in a pod, set KUBECONFIG, or compile files without one" in error


def steps() -> tuple[Step, ...]:
    """One of each kind."""
    api = ModelApi()
    api.objects |= {
        one.key: one.document for one in (emitted("Service", "gone"), emitted("Service", "b", a=1))
    }
    return difference(
        [emitted("Service", "b", a=2), emitted("Service", "new", a=1)], api.objects, inventory="test"
    ).steps


def test_a_change_is_its_lines_and_a_deletion_none() -> None:
    change, create, delete = steps()
    assert (change.verb, create.verb, delete.verb) == (Verb.CHANGE, Verb.CREATE, Verb.DELETE)
    assert [line for line in changes(change) if line[0] in "+-"] == ["-  a: 1", "+  a: 2"]
    lines = list(changes(create))
    assert lines[0].startswith("@@") and all(line[0] == "+" for line in lines[1:])
    assert list(changes(delete)) == []


def test_the_sum_names_each_kind_of_step() -> None:
    assert summary(steps()) == "1 to create, 1 to change, 1 to delete"
    assert summary(()) == "nothing to do: the cluster is as the files want it"
    assert summary(without_deletions(Difference(steps())).steps) == "1 to create, 1 to change, 0 to delete"


def test_a_plan_is_coloured_where_somebody_sees_it() -> None:
    compiled = Compiled((), (), frozenset(), Intent())
    api = {one["metadata"]["name"]: one for one in [foreign("Service", "theirs")]}
    taken = difference(
        [emitted("Service", "theirs")], {("Service", "models", "theirs"): api["theirs"]}, inventory="test"
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
