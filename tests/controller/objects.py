"""Objects as a compiler would make them, for tests."""

from typing import Any

from epp.compiler.emission import Emitted
from epp.compiler.findings import Origin
from epp.compiler.marks import inventory, marked
from epp.compiler.options import Options, Target

OPTIONS = Options(Target.GATEWAY_API, inventory="test")
INVENTORY = inventory(OPTIONS)


def origin(name: str, kind: str = "ModelRouter") -> Origin:
    return Origin(kind, "models", name, api_version="inference.llmkube.dev/v1alpha1")


def emitted(kind: str, name: str, *sources: str | Origin, **spec: Any) -> Emitted:
    """Marked as ours. A source that is a name is that of a router."""
    document = {
        "apiVersion": "test/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "models"},
        "spec": spec,
    }
    origins = (one if isinstance(one, Origin) else origin(one) for one in sources or ("chat",))
    return marked(Emitted(document, tuple(origins)), OPTIONS)


def foreign(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "test/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "models"},
        "spec": spec,
    }
