"""Objects by kind and by name, of the projects that are meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Document, Documents
from epp.compiler.emission import APPLY_ORDER, FROZEN, ROUTES
from epp.compiler.kinds import GROUP_OF, KINDS, Role

OURS = "gateway.networking.k8s.io/v1"


def document(api_version: str, kind: str, name: str = "ai", created: str = "") -> Document:
    meta = {"name": name, "namespace": "edge", "creationTimestamp": created}
    return Document({"apiVersion": api_version, "kind": kind, "metadata": meta})


@pytest.mark.parametrize(
    "kind, ours, theirs",
    [
        ("Gateway", OURS, "networking.istio.io/v1"),
        ("Service", "v1", "serving.knative.dev/v1"),
        ("Backend", "gateway.envoyproxy.io/v1alpha1", "gateway.kgateway.dev/v1alpha1"),
        ("ConfigMap", "v1", "somebody.example/v1"),
    ],
)
def test_another_projects_kind_of_the_same_name_hides_nothing(kind: str, ours: str, theirs: str) -> None:
    mine, other = document(ours, kind), document(theirs, kind)
    for found in (Documents([mine, other]), Documents([other, mine])):
        assert found.find(kind, "edge", "ai") is mine
        assert list(found.of(kind)) == [mine]
        group = theirs.partition("/")[0]
        assert found.find(kind, "edge", "ai", group) is other
        assert list(found.of(kind, group)) == [other]
        assert set(map(id, found)) == {id(mine), id(other)}


def test_another_projects_alone_is_not_there() -> None:
    found = Documents([document("networking.istio.io/v1", "Gateway")])
    assert found.find("Gateway", "edge", "ai") is None
    assert list(found.of("Gateway")) == []


def test_every_version_of_a_group_counts() -> None:
    (one,) = Documents([document("gateway.networking.k8s.io/v1beta1", "Gateway")]).of("Gateway")
    assert one.name == "ai"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([OURS, "networking.istio.io/v1", "v1", "x/y/z", ""]),
            st.sampled_from(["Gateway", "Service", "Secret", "Fleet"]),
            st.sampled_from("abc"),
            st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", ""]),
        ),
        max_size=8,
        unique_by=lambda one: one[:3],
    )
)
def test_whatever_is_given_is_found_by_its_group_the_oldest_first(given: list[tuple[str, ...]]) -> None:
    documents = [document(*one) for one in given]
    found = Documents(documents)
    for one in documents:
        same = [each for each in documents if (each.kind, each.group) == (one.kind, one.group)]
        assert found.find(one.kind, "edge", one.name, one.group) in [e for e in same if e.name == one.name]
        listed = list(found.of(one.kind, one.group))
        assert [each.origin.age for each in listed] == sorted(each.origin.age for each in listed)
        assert {each.name for each in listed} == {each.name for each in same}


def test_a_kind_is_of_one_group_and_what_is_made_has_its_place() -> None:
    assert all(GROUP_OF[one.name] == one.group for one in KINDS)
    assert {one.name for one in KINDS if one.role is Role.MADE} == set(APPLY_ORDER)
    assert ROUTES <= FROZEN <= set(APPLY_ORDER)
    assert APPLY_ORDER[-2:] == ("AIGatewayRoute", "HTTPRoute"), "after their policies and backends"


def test_one_is_not_true() -> None:
    """Python has them equal, and a file in which one is mended to be the other says something else."""
    assert Document({"audit": 1}) != Document({"audit": True}) and Document({"audit": 1}) != Document(
        {"audit": 1.0}
    )
    assert Document({"a": 1, "b": [2]}) == Document({"b": [2], "a": 1})
    assert Document({"a": 1}, "x:1") != Document({"a": 1}, "x:2") and Document({}) != {}


def test_keys_that_are_no_text_do_not_stop_a_comparison() -> None:
    assert Document({1: "a", "b": 2}) == Document({"b": 2, 1: "a"})
