"""``epp compile``: what comes out where, and with which status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.commands.compile import MOST_RULES, run
from epp.compiler.emission import ROUTES
from epp.compiler.options import Target
from epp.main import main

FLEET = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: site, namespace: llm}
gateway: edge/ai
models:
- {name: qwen, pods: {app: qwen}}
- {name: phi, pods: {app: phi}}
"""
BROKEN = FLEET.replace("{app: phi}", "{app: phi}, prot: 1")
TARGET = ("--target", "envoy-ai-gateway-1.1")


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def objects(text: str) -> set[tuple[str, str]]:
    """Kinds and names."""
    return {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(text)}


def test_objects_go_out_in_the_order_in_which_to_apply_them(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-f", str(fleet), *TARGET]) == 0
    out, err = capsys.readouterr()
    kinds = [one["kind"] for one in yaml.safe_load_all(out)]
    assert kinds.index("InferencePool") < kinds.index("AIGatewayRoute")
    assert {("InferencePool", "qwen"), ("InferencePool", "phi")} <= objects(out)
    assert err.splitlines()[-1].startswith(f"{len(kinds)} objects")


@pytest.mark.parametrize("target", Target)
def test_every_target_makes_something(
    target: Target, fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-f", str(fleet), "--target", target]) == 0
    assert ("InferencePool", "qwen") in objects(capsys.readouterr().out)


def test_a_fault_is_told_at_its_line_and_leaves_the_rest(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(BROKEN, encoding="utf-8")
    assert run(["-f", str(fleet), *TARGET]) == 1
    out, err = capsys.readouterr()
    assert ("InferencePool", "qwen") in objects(out)
    assert ("InferencePool", "phi") not in objects(out)
    assert f"error   {fleet}:7  Fleet/llm/site/phi: models[phi].prot [SpecInvalid]\n" in err
    assert '        unknown field\n        -> did you mean "port"?\n' in err
    assert "1 error" in err.splitlines()[-1]


def test_json_is_objects_and_findings_and_nothing_else(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(BROKEN, encoding="utf-8")
    assert run(["-f", str(fleet), *TARGET, "--format", "json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (set(found), err) == ({"objects", "findings"}, "")
    assert found["findings"][0] == {
        "severity": "error",
        "code": "SpecInvalid",
        "object": "Fleet/llm/site/phi",
        "field": "models[phi].prot",
        "message": "unknown field",
        "fix": 'did you mean "port"?',
    }
    assert {"kind", "apiVersion", "metadata"} <= found["objects"][0].keys()


def test_flags_say_what_files_leave_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET.replace(", namespace: llm", "").replace("gateway: edge/ai\n", ""), encoding="utf-8")
    arguments = [
        "-f",
        str(path),
        "--target",
        "gateway-api",
        "--namespace",
        "models",
        "--gateway",
        "edge/ai/https",
    ]
    assert run([*arguments, "--picker", "epp", "--inventory", "blue", "--model-header", "X-Model"]) == 0
    route = next(one for one in yaml.safe_load_all(capsys.readouterr().out) if one["kind"] == "HTTPRoute")
    assert route["metadata"]["namespace"] == "models"
    assert route["metadata"]["labels"]["fleet-epp.dev/inventory"] == "blue"
    assert route["spec"]["parentRefs"][0]["sectionName"] == "https"
    assert route["spec"]["rules"][0]["matches"][0]["headers"][0]["name"] == "x-model"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "the following arguments are required"),
        (["-f", "x", *TARGET], "-f x: there is no such file or directory"),
        (["-f", "x", "--target", "envoy"], '"envoy" is none of envoy-ai-gateway-0.7'),
        (["-f", "x", *TARGET, "--gateway", "ai"], '"ai" is no NAMESPACE/NAME'),
        (["-f", "x", *TARGET, "--model-header", "a b"], '"a b" is no name of a header'),
        (["-f", "x", *TARGET, "--frmat", "json"], "unrecognized arguments: --frmat json"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("epp compile: ")
    assert expected in err


def test_a_reader_that_has_enough_is_no_fault(fleet: Path) -> None:
    command = f"{sys.executable} -m epp compile -f {fleet} {' '.join(TARGET)} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "---\n")
    assert "Traceback" not in done.stderr


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compile", "--help"])
    assert ended.value.code == 0
    assert "exit status: 0; 1 with an error among the findings" in capsys.readouterr().out


class TestDirectory:
    def compile(self, fleet: Path, *more: str) -> tuple[int, Path]:
        folder = fleet.parent / "out"
        return run(["-f", str(fleet), *TARGET, "--out", str(folder), *more]), folder

    def content(self, folder: Path) -> dict[str, dict[str, Any]]:
        return {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.iterdir()}

    def test_each_object_has_a_file_in_the_safe_order(
        self, fleet: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, folder = self.compile(fleet)
        out, err = capsys.readouterr()
        found = self.content(folder)
        assert (status, out) == (0, "")
        assert f"{len(found)} files written and 0 removed in {folder}" in err
        kinds = [found[name]["kind"] for name in sorted(found)]
        assert kinds.index("InferencePool") < kinds.index("AIGatewayRoute")
        assert all(
            path.read_text(encoding="utf-8").startswith("# Made by epp compile") for path in folder.iterdir()
        )

    def test_nothing_changed_writes_nothing(self, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, folder = self.compile(fleet)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        self.compile(fleet)
        assert "0 files written and 0 removed" in capsys.readouterr().err
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    def test_what_is_not_wanted_any_more_goes(self, fleet: Path) -> None:
        _, folder = self.compile(fleet)
        assert any("phi" in name for name in self.content(folder))
        fleet.write_text("".join(FLEET.splitlines(keepends=True)[:-1]), encoding="utf-8")
        self.compile(fleet)
        assert not any("phi" in name for name in self.content(folder))

    def test_others_files_stay(self, fleet: Path) -> None:
        _, folder = self.compile(fleet)
        for name in ("kustomization.yaml", "99-service.llm.mine.yaml", "notes"):
            (folder / name).write_text("mine\n", encoding="utf-8")
        fleet.write_text("".join(FLEET.splitlines(keepends=True)[:-1]), encoding="utf-8")
        self.compile(fleet)
        assert {"kustomization.yaml", "99-service.llm.mine.yaml", "notes"} <= {
            one.name for one in folder.iterdir()
        }

    def test_another_inventory_is_somebody_elses(
        self, fleet: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, folder = self.compile(fleet)
        before = self.content(folder)
        status, _ = self.compile(fleet, "--inventory", "blue")
        assert status == 1
        assert (
            "is not of this command and inventory: remove it, or give another --out"
            in capsys.readouterr().err
        )
        assert self.content(folder) == before

    def test_what_was_made_of_a_model_that_has_an_error_now_stays(self, fleet: Path) -> None:
        _, folder = self.compile(fleet)
        before = self.content(folder)
        fleet.write_text(BROKEN.replace("app: qwen", "app: qwen-2"), encoding="utf-8")
        status, _ = self.compile(fleet)
        after = self.content(folder)
        assert status == 1
        phi = [name for name in before if ".phi" in name]
        assert phi
        assert [after[name] for name in phi] == [before[name] for name in phi]
        pool = next(
            one for one in after.values() if one["metadata"]["name"] == "qwen" and "selector" in one["spec"]
        )
        assert pool["spec"]["selector"] == {"matchLabels": {"app": "qwen-2"}}

    def test_its_pool_keeps_its_port_of_the_picker(self, fleet: Path) -> None:
        """The route still stands, and the pool is asked for at that port; no new pool may get it."""
        _, folder = self.compile(fleet)
        phi = next(one for one in self.content(folder).values() if one["metadata"]["name"] == "phi")
        number = phi["spec"]["endpointPickerRef"]["port"]["number"]
        fleet.write_text(f"{BROKEN}- {{name: new, pods: {{app: new}}}}\n", encoding="utf-8")
        self.compile(fleet)
        after = list(self.content(folder).values())
        assert phi in after
        service = next(one for one in after if one["metadata"]["name"] == "fleet-epp-pools")
        pools = {one["metadata"]["name"]: one for one in after if one["kind"] == "InferencePool"}
        asked = [one["spec"]["endpointPickerRef"]["port"]["number"] for one in pools.values()]
        assert set(pools) == {"qwen", "phi", "new"}
        assert sorted(asked) == sorted(one["port"] for one in service["spec"]["ports"])
        assert number in asked and len(set(asked)) == 3

    def test_the_port_of_a_pool_that_is_not_wanted_any_more_goes_with_it(self, fleet: Path) -> None:
        _, folder = self.compile(fleet)
        fleet.write_text(FLEET.replace("- {name: phi, pods: {app: phi}}\n", ""), encoding="utf-8")
        self.compile(fleet)
        after = self.content(folder)
        service = next(one for one in after.values() if one["metadata"]["name"] == "fleet-epp-pools")
        assert len(service["spec"]["ports"]) == 1
        self.compile(fleet)
        assert self.content(folder) == after

    def test_what_is_no_directory_is_told(self, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
        taken = fleet.parent / "out"
        taken.write_text("", encoding="utf-8")
        assert self.compile(fleet)[0] == 1
        told = f"epp compile: --out {taken}: File exists: name a directory to write to\n"
        assert capsys.readouterr().err == told

    @pytest.mark.parametrize("text", ["models: [", ""], ids=["no YAML", "no object"])
    def test_a_file_that_cannot_be_read_removes_nothing(self, text: str, fleet: Path) -> None:
        """A slip of the pen in it would be the end of everything that it asks for."""
        _, folder = self.compile(fleet)
        before = self.content(folder)
        fleet.write_text(text, encoding="utf-8")
        status, _ = self.compile(fleet)
        assert status == 1
        assert self.content(folder) == before

    def test_a_policy_that_several_share_is_not_changed_while_one_has_an_error(self, fleet: Path) -> None:
        """The routes of that one still stand, and would be open to everyone."""
        auth = 'auth: {issuer: i, jwks: "https://idp.example.com/keys"}\n'
        one = f"{FLEET}{auth}teams: [{{name: t, models: [qwen]}}]\n"
        other = f"{one}".replace("name: site", "name: other").replace("qwen", "q2").replace("phi", "p2")
        fleet.write_text(f"{one}---\n{other}", encoding="utf-8")
        _, folder = self.compile(fleet)
        before = {
            name: each for name, each in self.content(folder).items() if each["kind"] == "SecurityPolicy"
        }
        assert before
        fleet.write_text(f"{one.replace('[qwen]', '[phi]')}---\n{other}timeout: 25h\n", encoding="utf-8")
        status, _ = self.compile(fleet)
        after = self.content(folder)
        assert status == 1
        assert {name: after[name] for name in before} == before

    GUARDED = f"""{FLEET}
- {{name: gpt, backends: [openai]}}
backends: {{openai: {{provider: openai, secret: key}}}}
sensitive: {{classes: [pii]}}
"""

    def test_a_model_with_an_error_keeps_the_guard_in_front_of_it(self, fleet: Path) -> None:
        """Its route still stands: without the rule that refuses them, sensitive requests would get out."""
        fleet.write_text(self.GUARDED, encoding="utf-8")
        _, folder = self.compile(fleet)
        before = self.content(folder)
        fleet.write_text(self.GUARDED.replace("[openai]}", "[openai], prot: 1}"), encoding="utf-8")
        status, _ = self.compile(fleet)
        assert status == 1
        assert self.content(folder) == before

    def test_a_new_model_waits_while_what_it_needs_may_not_be_changed(self, fleet: Path) -> None:
        """Its own guard would stand in a route that stays as it is."""
        fleet.write_text(self.GUARDED, encoding="utf-8")
        _, folder = self.compile(fleet)
        more = self.GUARDED.replace("- {name: gpt,", "- {name: o3, backends: [openai]}\n- {name: gpt,")
        fleet.write_text(more.replace("app: phi}", "app: phi}, prot: 1"), encoding="utf-8")
        self.compile(fleet)
        assert not any("aigatewayroute.llm.site-o3" in name for name in self.content(folder))
        fleet.write_text(more, encoding="utf-8")
        status, _ = self.compile(fleet)
        assert status == 0
        assert any("aigatewayroute.llm.site-o3" in name for name in self.content(folder))

    def test_but_not_for_what_is_of_a_model_in_error_alone(self, fleet: Path) -> None:
        """phi's own route stays as it is, and nothing of the new model's would have stood there."""
        _, folder = self.compile(fleet)
        before = self.content(folder)
        fleet.write_text(BROKEN + "\n- {name: new, pods: {app: new}}\n", encoding="utf-8")
        status, _ = self.compile(fleet)
        after = self.content(folder)
        assert status == 1
        assert any("aigatewayroute.llm.site-new" in name for name in after)
        assert {name: after[name] for name in before if "route" in name} == {
            name: one for name, one in before.items() if "route" in name
        }

    def test_a_file_of_ours_that_somebody_has_broken_is_told(
        self, fleet: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, folder = self.compile(fleet)
        (one, *_) = sorted(folder.iterdir())
        one.write_text(one.read_text(encoding="utf-8") + "a: [", encoding="utf-8")
        fleet.write_text(BROKEN, encoding="utf-8")
        status, _ = self.compile(fleet)
        assert status == 1
        assert "it was changed by somebody: remove it" in capsys.readouterr().err


@pytest.mark.parametrize("target, most", [*MOST_RULES.items()])
def test_what_is_too_much_for_one_route_is_spread_unless_that_is_forbidden(
    target: Target, most: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"

    def compiled(count: int, *more: str) -> tuple[int, list[int], str]:
        """The status, how many rules each route has, and the last line for people."""
        models = "".join(f"  - {{name: m{at}, pods: {{app: m{at}}}}}\n" for at in range(count))
        site.write_text(FLEET.partition("- {name")[0] + models)
        status = run(["-f", str(site), "--target", target, *more])
        out, err = capsys.readouterr()
        made = [one for one in yaml.safe_load_all(out) if one["kind"] in ROUTES]
        return status, [len(one["spec"]["rules"]) for one in made], err.splitlines()[-1]

    for flags in ([], ["--split"], ["--no-split", "--split"]):
        status, rules, _ = compiled(most + 1, *flags)
        assert status == 0 and sum(rules) == most + 1 and max(rules) <= most
    assert compiled(most, "--no-split")[:2] == compiled(most)[:2]
    status, rules, told = compiled(most + 1, "--no-split")
    assert (status, rules) == (1, [])
    assert told == (
        f"epp compile: --no-split: Fleet/llm/site comes to {most + 1} rules with {most + 1} matches, and a"
        f" route of {target} holds {most} with 128: leave --no-split out, or make several of it"
    )
