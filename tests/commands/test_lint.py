"""``epp lint``: what it prints and how it ends."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from epp.commands.lint import run
from epp.lint.registry import RULES

GOLDEN = Path(__file__).parents[1] / "golden" / "lint"
ERROR, WARNING, INFO = (
    str(GOLDEN / code / "bad.yaml") for code in ("UnusableAddress", "MissingTimeout", "ModelsListed")
)
GOOD = str(GOLDEN / "UnusableAddress" / "good.yaml")


@pytest.fixture
def lint(capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str) -> tuple[int, str, str]:
        status = run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return ask


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


class TestStatus:
    @pytest.mark.parametrize(
        "file, least, status",
        [
            pytest.param(ERROR, "error", 1, id="error"),
            pytest.param(WARNING, "error", 0, id="warning"),
            pytest.param(WARNING, "warning", 1, id="warning-that-counts"),
            pytest.param(INFO, "warning", 0, id="info"),
            pytest.param(INFO, "info", 1, id="info-that-counts"),
            pytest.param(ERROR, "never", 0, id="never"),
            pytest.param(GOOD, "info", 0, id="nothing"),
        ],
    )
    def test_is_as_grave_as_wanted(self, lint: Any, file: str, least: str, status: int) -> None:
        assert lint("-f", file, "--fail-on", least)[0] == status

    def test_an_error_is_what_counts_by_default(self, lint: Any) -> None:
        assert lint("-f", ERROR)[0] == 1
        assert lint("-f", WARNING)[0] == 0

    @pytest.mark.parametrize(
        "arguments, told",
        [
            pytest.param([], "give -f FILE or --cluster, one of the two", id="nothing"),
            pytest.param(["-f", GOOD, "--cluster"], "give -f FILE or --cluster, one of the two", id="both"),
            pytest.param(["-f", "no-such.yaml"], "no-such.yaml", id="no-file"),
            pytest.param(
                ["-f", GOOD, "--ignore", "MissingTimeouts"], 'did you mean "MissingTimeout"?', id="code"
            ),
            pytest.param(
                ["-f", GOOD, "--version", "new"], '"new" is no version: write as in 0.7', id="version"
            ),
            pytest.param(["-f", GOOD, "--namespace=a", "--namespace=b"], "--namespace", id="namespaces"),
        ],
    )
    def test_is_2_when_asked_wrongly(self, lint: Any, arguments: list[str], told: str) -> None:
        status, out, err = lint(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("epp lint: ") and told in err and err.count("\n") == 1

    def test_is_2_without_a_cluster(self, lint: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        status, out, err = lint("--cluster")
        assert (status, out) == (2, "")
        assert err.startswith("epp lint: --cluster: KUBECONFIG=") and err.count("\n") == 1


class TestText:
    def test_place_object_field_code_consequence_and_remedy(self, lint: Any) -> None:
        _, out, err = lint("-f", ERROR)
        assert err == ""
        assert f"{ERROR}:5" in out
        assert "Backend/llm/mini: spec.endpoints[0].fqdn.hostname [UnusableAddress]" in out
        assert '"mac-mini" is no host name of two parts' in out and "-> a name with a domain" in out
        assert out.endswith("\n1 error\n")

    def test_nothing_is_said_aloud(self, lint: Any) -> None:
        assert lint("-f", GOOD) == (0, "nothing found\n", "")

    def test_a_code_may_be_ignored(self, lint: Any) -> None:
        assert lint("-f", ERROR, "--ignore", "UnusableAddress") == (0, "nothing found\n", "")

    def test_a_code_is_explained(self, lint: Any) -> None:
        status, out, _ = lint("--explain", "NonHttpListener")
        assert status == 0
        assert out.startswith("NonHttpListener (error): ") and "envoyproxy/ai-gateway#2600" in out


def test_json_is_as_that_of_compile(lint: Any) -> None:
    _, out, _ = lint("-f", WARNING, "--format", "json")
    assert json.loads(out) == {
        "findings": [
            {
                "severity": "warning",
                "code": "MissingTimeout",
                "object": "AIGatewayRoute/llm/qwen",
                "field": "spec.rules[0].timeouts",
                "message": "is not set: every request ends after 60 s, streams too, whatever a policy says",
                "fix": "timeouts: {request: 600s}, or as long as your longest answer takes",
            }
        ]
    }


class TestSarif:
    """What the schema of 2.1.0 requires, and what code hosts read."""

    def run_of(self, lint: Any, *files: str) -> dict[str, Any]:
        _, out, _ = lint(*(word for file in files for word in ("-f", file)), "--format", "sarif")
        log = json.loads(out)
        assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
        (one,) = log["runs"]
        return dict(one)

    def test_every_rule_is_described(self, lint: Any) -> None:
        driver = self.run_of(lint, GOOD)["tool"]["driver"]
        assert driver["name"] == "epp lint" and driver["version"]
        assert [one["id"] for one in driver["rules"]] == [one.code for one in RULES]
        for one in driver["rules"]:
            assert one["shortDescription"]["text"] and one["fullDescription"]["text"]
            assert one["defaultConfiguration"]["level"] in {"error", "warning", "note"}

    def test_a_result_names_rule_level_file_and_line(self, lint: Any) -> None:
        one = self.run_of(lint, ERROR, WARNING, INFO)
        rules = one["tool"]["driver"]["rules"]
        results = {each["ruleId"]: each for each in one["results"]}
        levels = {code: each["level"] for code, each in results.items()}
        assert levels == {"UnusableAddress": "error", "MissingTimeout": "warning", "ModelsListed": "note"}
        for code, each in results.items():
            assert rules[each["ruleIndex"]]["id"] == code
            (location,) = each["locations"]
            assert location["physicalLocation"]["artifactLocation"]["uri"].endswith(f"{code}/bad.yaml")
            assert location["physicalLocation"]["region"]["startLine"] >= 2
            assert location["logicalLocations"][0]["fullyQualifiedName"] in each["message"]["text"]

    def test_a_file_that_cannot_be_read_is_a_result_too(self, lint: Any, tmp_path: Path) -> None:
        broken = write(tmp_path / "a file.yaml", "kind: [")
        (result,) = self.run_of(lint, broken)["results"]
        assert result["ruleId"] == "Unreadable" and "ruleIndex" not in result
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"].endswith("/a%20file.yaml")

    def test_without_a_finding_there_is_an_empty_list(self, lint: Any) -> None:
        assert self.run_of(lint, GOOD)["results"] == []


class TestConfiguration:
    """Of controllers, as it stands in files."""

    def test_helm_values_are_read_and_their_lines_told(self, lint: Any, tmp_path: Path) -> None:
        values = write(
            tmp_path / "values.yaml",
            """\
            controller:
              mcp:
                sessionEncryption:
                  seed: default-insecure-seed
            """,
        )
        status, out, _ = lint("-f", values)
        assert status == 1
        assert f"{values}:4" in out and "controller.mcp.sessionEncryption.seed [InsecureSeed]" in out
        assert "NoObject" not in out

    def test_an_envoy_gateway_is_found_in_a_config_map(self, lint: Any, tmp_path: Path) -> None:
        config = write(
            tmp_path / "config.yaml",
            """\
            apiVersion: v1
            kind: ConfigMap
            metadata: {name: envoy-gateway-config, namespace: envoy-gateway-system}
            data:
              notes: "{ EnvoyGateway, but not YAML"
              bomb: "a: &a [EnvoyGateway]\\nb: &b [*a, *a]\\nkind: *c"
              envoy-gateway.yaml: |
                apiVersion: gateway.envoyproxy.io/v1alpha1
                kind: EnvoyGateway
                extensionApis: {enableBackend: false}
            """,
        )
        status, out, _ = lint("-f", config, "-f", GOOD)
        assert status == 1
        assert "EnvoyGateway/envoy-gateway-system/envoy-gateway-config: extensionApis.enableBackend" in out

    def test_objects_without_a_namespace_are_in_one(self, lint: Any, tmp_path: Path) -> None:
        """Else a policy and its route would not be of one namespace."""
        text = (GOLDEN / "DanglingTarget" / "bad.yaml").read_text().replace(", namespace: llm", "")
        file = write(tmp_path / "all.yaml", text.replace("name: qwen2", "name: qwen"))
        assert lint("-f", file, "--namespace", "models", "--fail-on", "info")[0] == 0
