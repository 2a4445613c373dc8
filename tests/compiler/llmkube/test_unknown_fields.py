"""Fields that LLMKube has not: in a file whoever wrote them relies on them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Severity
from epp.compiler.inputs.llmkube import objects
from tests.compiler.llmkube.cluster import (
    FLEET,
    document,
    exposed,
    model,
    read,
    refused,
    router,
    rule,
    service,
    to,
)

JWT = {"provider": "k", "issuer": "https://id", "jwksURI": "https://id/certs", "teamClaim": "team"}


def findings(*documents: Document, **options: Any) -> list[Finding]:
    return list(read(*documents, **options).findings)


@pytest.mark.parametrize(
    "spec, field, meant",
    [
        ({"polcy": {"auth": {"jwt": JWT}}}, "spec.polcy", "policy"),
        ({"policy": {"Auth": {"jwt": JWT}}}, "spec.policy.Auth", "auth"),
        ({"rules": [rule("cuda", failclosed=True)]}, "spec.rules[0].failclosed", "failClosed"),
        (
            {"rules": [rule("cuda", match={"dataClasification": ["pii"]})]},
            "spec.rules[0].match.dataClasification",
            "dataClassification",
        ),
        ({"backends": [to("cuda", tear="cloud")]}, "spec.backends[0].tear", "tier"),
        ({"proxy": {"replica": 2}}, "spec.proxy.replica", "replicas"),
    ],
)
def test_a_field_of_a_router_that_is_misspelt_is_an_error(
    spec: dict[str, Any], field: str, meant: str
) -> None:
    finding = refused(router(**spec))
    assert (finding.code, finding.origin.field) == ("UnknownField", field)
    assert f'did you mean "{meant}"?' in finding.fix


def test_a_field_of_a_router_that_is_like_no_other_is_an_error_as_well() -> None:
    assert refused(router(zzz=1)).fix == "remove it, or correct its name"


def test_a_data_plane_that_is_misspelt_does_not_leave_the_router_to_the_proxy() -> None:
    asked = document("ModelRouter", "qwen", {**router().spec, "dataPlane": None, "dataplane": "Gateway"})
    assert refused(asked).fix.endswith('did you mean "dataPlane"?')


def test_a_part_beside_the_spec_is_a_field_as_well() -> None:
    asked = Document({**router().content, "sepc": {}})
    assert refused(asked).origin.field == "sepc"


def test_in_a_cluster_a_newer_llmkube_may_have_it() -> None:
    reading = read(*FLEET, router(polcy={}), is_live=True, claim=True)
    (finding,) = reading.findings
    assert (finding.severity, finding.origin.field) == (Severity.WARNING, "spec.polcy")
    assert reading.routers


def test_a_service_may_be_newer_where_nothing_else_can_be_meant() -> None:
    reading = read(model(), service("cuda", zzz={"lora": 1}), router())
    (finding,) = reading.findings
    assert (finding.severity, finding.code) == (Severity.WARNING, "UnknownField")
    assert reading.routers


@pytest.mark.parametrize(
    "there, field",
    [
        (exposed("open", endpoint={"gatway": {}}), "spec.endpoint.gatway"),
        (exposed("open", container_port=8000), "spec.container_port"),
        (document("Model", "phi", {"hardware": {"acelerator": "metal"}}), "spec.hardware.acelerator"),
    ],
)
def test_whatever_is_misspelt_is_an_error_of_the_object(there: Document, field: str) -> None:
    (finding,) = [
        one for one in findings(*FLEET[1:], there, router()) if one.is_error and one.code == "UnknownField"
    ]
    assert (finding.origin.object, finding.origin.field) == (there.origin.object, field)


def test_what_no_gateway_needs_is_known_all_the_same() -> None:
    busy = service("cuda", replicas=2, vllmConfig={"anything": 1}, resources={"gpu": 1})
    priced = to("cuda", costPerMillionTokens={"promptUSD": "1"}, resolution="endpoint")
    assert not [
        one for one in findings(model(), busy, router(backends=[priced])) if one.code == "UnknownField"
    ]


@given(names=st.sets(st.text(max_size=6)), inner=st.sets(st.text(max_size=6)))
def test_every_field_is_known_or_told(names: set[str], inner: set[str]) -> None:
    content = {**dict.fromkeys(names), "backends": [{**dict.fromkeys(inner), "name": "a"}]}
    read_as = objects.decode(objects.ModelRouter, content, "spec")
    told = {f"{where}.{name}" for _, where, name in objects.unknown(read_as, content, "spec")}
    wanted = {f"spec.{name}" for name in content.keys() - objects.ModelRouter.known()}
    below = {**dict.fromkeys(inner), "name": "a"}.keys() - objects.Backend.known()
    assert told == wanted | {f"spec.backends[0].{name}" for name in below}
