"""Fleet files for tests: the head is always the same."""

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding
from epp.compiler.inputs import Reading, fleet
from epp.compiler.intent import Router, Rule
from epp.compiler.options import Options, Target
from epp.config import decode

PARTNERS = """
backends:
  north: {url: "https://llm.north.example/v1", secret: north-key}
  south: {url: "http://south.example:8080", local: true}
"""
HEAD = "{apiVersion: fleet-epp.dev/v1alpha1, kind: Fleet, metadata: {name: site, namespace: llm}}"
OPTIONS = Options(Target.ENVOY_AI_GATEWAY_1_1)


def read(*parts: str, gateway: str = "edge/ai", options: Options = OPTIONS) -> Reading:
    """What a file says that begins as all do, has PARTNERS, and goes on with ``parts``, which count more."""
    content = {}
    for part in (HEAD, PARTNERS, *parts):
        content |= decode.plain(decode.parse(part, "fleet.yaml"))
    if gateway:
        content["gateway"] = gateway
    return fleet.read(Documents([Document(content, "fleet.yaml:1")]), options)


def router(*parts: str) -> Router:
    """Of a file in which nothing is wrong."""
    reading = read(*parts)
    assert [one for one in reading.findings if one.code != "UnusedBackend"] == []
    (found,) = reading.routers
    return found


def rules(*parts: str) -> dict[str, Rule]:
    """The same, by name of its rules."""
    return {one.name: one for one in router(*parts).rules}


def told(*parts: str) -> list[str]:
    """Findings in a line each: where, which, what, and the remedy; not of partners that nobody asks."""
    return [line(one) for one in read(*parts).findings if one.code != "UnusedBackend"]


def line(one: Finding) -> str:
    """``models[a].pods SpecInvalid: … -> …``."""
    return f"{one.origin.field} {one.code}: {one.message} -> {one.fix}"


def live(*parts: str) -> set[str]:
    """Names that clients can ask for."""
    return {name for rule in _rules(*parts) if rule.backends for name in rule.models}


def refused(*parts: str) -> set[str]:
    """Names that nothing serves, and that nothing else may have."""
    return {name for rule in _rules(*parts) if not rule.backends for name in rule.models}


def _rules(*parts: str) -> list[Rule]:
    return [rule for one in read(*parts).routers for rule in one.rules]
