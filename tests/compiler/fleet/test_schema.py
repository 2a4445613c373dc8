"""The JSON Schema that editors read, and the examples."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from epp.compiler.documents import Document, Documents
from epp.compiler.inputs import fleet
from epp.config import decode
from tests.compiler.fleet.reading import OPTIONS
from tests.compiler.fleet.test_any_file import FILES

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "deploy/fleet.schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(SCHEMA)
EXAMPLES = sorted(ROOT.glob("docs/examples/*/fleet.yaml"))


def content(path: Path) -> dict[str, Any]:
    found = decode.plain(decode.parse(path.read_text(encoding="utf-8"), path.name))
    assert isinstance(found, dict)
    return found


def test_it_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/fleet_schema.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_the_examples_fit_it(path: Path) -> None:
    CHECK.validate(content(path))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_nothing_is_wrong_with_the_examples(path: Path) -> None:
    reading = fleet.read(Documents([Document(content(path), path.name)]), OPTIONS)
    assert reading.findings == ()
    assert len(reading.routers) == 1


def test_there_are_two_examples() -> None:
    assert [path.parent.name for path in EXAMPLES] == ["home-lab", "partner-site"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(written=FILES)
def test_what_can_be_decoded_fits_it(written: dict[str, Any]) -> None:
    """An editor complains about nothing that is read."""
    CHECK.validate(written)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modles": []},
        {"timeout": "5 minutes"},
        {"models": [{"name": "a", "port": "8000"}]},
        {"models": [{"pods": {"a": "b"}}]},
        {"models": [{"name": "a", "provider": "opnai"}]},
        {"models": [{"name": "a", "backends": {"x": "90%"}}]},
    ],
    ids=str,
)
def test_an_editor_complains_where_reading_would(wrong: dict[str, Any]) -> None:
    head = {
        "apiVersion": "fleet-epp.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "a"},
        "gateway": "g",
        "models": [],
    }
    assert list(CHECK.iter_errors({**head, **wrong}))
    assert [
        one for one in fleet.read(Documents([Document({**head, **wrong})]), OPTIONS).findings if one.is_error
    ]
