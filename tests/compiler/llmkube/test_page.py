"""The example of docs/llmkube.md, as it stands there: LLMKube takes it, and so does each gateway that can."""

import re
from pathlib import Path

import pytest

from epp.commands.files import load
from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document
from epp.compiler.findings import Severity
from epp.compiler.options import Options, Target
from tests.compiler.envoy_ai_gateway.crds import complaints

PAGE = Path(__file__).parents[3] / "docs" / "llmkube.md"
ORDERED = [target for target in Target if target is not Target.GATEWAY_API]


@pytest.fixture
def example(tmp_path: Path) -> list[Document]:
    """The one block of YAML on the page."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "house.yaml").write_text(text, encoding="utf-8")
    loaded = load([str(tmp_path / "house.yaml")])
    assert not loaded.findings
    return list(loaded.documents)


def test_llmkube_has_these_fields(example: list[Document]) -> None:
    assert [one.kind for one in example] == ["Model", "InferenceService", "ModelRouter"]
    assert [told for one in example for told in complaints(dict(one.content), "")] == []


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("target", ORDERED)
def test_it_is_compiled_without_a_warning(example: list[Document], target: Target, *, is_live: bool) -> None:
    """Of a cluster it is claimed by its annotations."""
    options = Options(target, is_live=is_live)
    gateway = Document(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "ai", "namespace": "edge"},
            "spec": {"listeners": [{"name": "http", "allowedRoutes": {"namespaces": {"from": "All"}}}]},
        }
    )
    compiled = compile_documents([*example, gateway], options)
    assert [one for one in compiled.findings if one.severity is not Severity.INFO] == []
    routers = {one.name: [(rule.name, rule.models) for rule in one.rules] for one in compiled.intent.routers}
    assert routers == {
        "qwen3-8b": [("qwen3-8b", ("qwen3-8b",))],
        "house": [("personal", ("chat",)), ("chat", ("chat",))],
    }
    personal, chat = next(one for one in compiled.intent.routers if one.name == "house").rules
    assert personal.sensitive and [one.name for one in personal.backends] == ["pods"]
    assert [one.name for one in chat.backends] == ["pods", "provider"]


def test_a_gateway_without_an_order_of_backends_says_so(example: list[Document]) -> None:
    compiled = compile_documents(example, Options(Target.GATEWAY_API))
    assert [one.code for one in compiled.findings if one.is_error] == ["UnsupportedFallback"]
