"""What a policy is for, and whose routes a listener takes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.attachment import NAME_LABEL, Thing, admits, places, sections
from epp.compiler.documents import Document
from epp.compiler.node import Node

ROUTE = Thing("HTTPRoute", "llm", "qwen", {"team": "a"})


def policy(**spec: Any) -> Document:
    return Document({"kind": "SecurityPolicy", "metadata": {"name": "p", "namespace": "llm"}, "spec": spec})


def by(**selector: Any) -> Document:
    return policy(targetSelectors=[{"kind": "HTTPRoute", **selector}])


def where(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.mark.parametrize(
    "found, expected",
    [
        (policy(targetRef={"kind": "HTTPRoute", "name": "qwen"}), {""}),
        (
            policy(targetRefs=[{"kind": "Gateway", "name": "qwen"}, {"kind": "HTTPRoute", "name": "qwen"}]),
            {""},
        ),
        (policy(targetRefs=[{"kind": "HTTPRoute", "name": "qwen", "sectionName": "r"}]), {"r"}),
        (policy(targetRefs=[{"kind": "HTTPRoute", "name": "gpt"}]), set()),
        (by(), {""}),
        (by(matchLabels={"team": "a"}), {""}),
        (by(matchLabels={"team": "a", "site": "north"}), set()),
        (by(matchExpressions=[where("team", "In", "a", "b"), where("site", "DoesNotExist")]), {""}),
        (by(matchExpressions=[where("team", "NotIn", "b"), where("team", "Exists")]), {""}),
        (by(matchExpressions=[where("site", "NotIn", "north")]), {""}),
        (by(matchExpressions=[where("team", "NotIn", "a")]), set()),
        (by(matchExpressions=[where("site", "In", "north")]), set()),
        (by(matchExpressions=[where("site", "Exists")]), set()),
        (by(matchExpressions=[where("team", "DoesNotExist")]), set()),
        (by(matchExpressions=[where("", "Exists")]), set()),
        (by(matchExpressions=[where("team", "Like", "a")]), set()),
        (by(matchLabels={"team": "a"}, namespaces={"from": "All"}), {""}),
        (policy(targetSelectors=[{"kind": "Gateway", "matchLabels": {"team": "a"}}]), set()),
    ],
)
def test_by_name_by_labels_and_for_a_part(found: Document, expected: set[str]) -> None:
    assert sections(found, [ROUTE]) == expected


def test_a_selector_stays_in_its_namespace_unless_it_says_all() -> None:
    there = Thing("HTTPRoute", "other", "qwen", ROUTE.labels)
    assert not sections(by(matchLabels={"team": "a"}), [there])
    assert sections(by(matchLabels={"team": "a"}, namespaces={"from": "All"}), [there]) == {""}
    labels = {"from": "Selector", "selector": {"matchLabels": {"site": "north"}}}
    assert not sections(by(namespaces=labels), [there]), "labels of namespaces are not at hand"


def test_it_says_where() -> None:
    refs = [{"kind": "HTTPRoute", "name": "gpt"}, {"kind": "HTTPRoute", "name": "qwen"}]
    both = policy(targetRefs=refs, targetSelectors=[{"kind": "HTTPRoute"}])
    assert [one.at.field for one in places(both, ROUTE)] == ["spec.targetRefs[1]", "spec.targetSelectors[0]"]


def listener(**namespaces: Any) -> Node:
    return Node({"name": "http", **({"allowedRoutes": {"namespaces": namespaces}} if namespaces else {})})


NORTH = {"from": "Selector", "selector": {"matchLabels": {"site": "north"}}}
NAMED = {"from": "Selector", "selector": {"matchExpressions": [where(NAME_LABEL, "In", "llm", "lab")]}}


@pytest.mark.parametrize(
    "allowed, labels, takes",
    [
        ({}, None, False),
        ({"from": "Same"}, None, False),
        ({"from": "All"}, None, True),
        (NORTH, {"site": "north"}, True),
        (NORTH, {"site": "south"}, False),
        (NORTH, {}, False),
        (NORTH, None, None),
        ({"from": "Selector", "selector": {}}, None, True),
        ({"from": "Selector"}, {}, False),
        ({"from": "None"}, {}, False),
    ],
)
def test_a_listener_takes_routes_of_namespaces(
    allowed: dict[str, Any], labels: dict[str, str] | None, takes: bool | None
) -> None:
    """None: a selector by labels that are not at hand."""
    assert admits(listener(**allowed), "edge", "llm", labels) is takes


def test_a_listener_takes_those_of_its_own_namespace_unless_a_selector_says_otherwise() -> None:
    assert [admits(listener(**one), "llm", "llm", {}) for one in ({}, {"from": "Same"}, NORTH)] == [
        True,
        True,
        False,
    ]


def test_the_name_of_a_namespace_is_a_label_that_all_have() -> None:
    assert admits(listener(**NAMED), "edge", "llm", None) is True
    assert admits(listener(**NAMED), "edge", "prod", None) is False
    both = {**NAMED["selector"], **NORTH["selector"]}
    assert admits(listener(**{**NAMED, "selector": both}), "edge", "llm", None) is None


WORDS = st.sampled_from(["HTTPRoute", "Gateway", "llm", "qwen", "team", "a", "In", "Exists", "All", ""])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("kind", "name", "namespace", "sectionName", "matchLabels", "matchExpressions", "team"),
                    *("key", "operator", "values", "namespaces", "from"),
                ]
            ),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)
SPECS = st.dictionaries(
    st.sampled_from(["targetRef", "targetRefs", "targetSelectors"]), ANYTHING | st.lists(ANYTHING), max_size=3
)


@given(SPECS)
def test_whatever_is_written_is_read(spec: dict[str, Any]) -> None:
    """And a name that is added is found."""
    before = sections(policy(**spec), [ROUTE])
    assert all(isinstance(one, str) for one in before)
    refs = spec.get("targetRefs")
    named = [*(refs if isinstance(refs, list) else []), {"kind": "HTTPRoute", "name": "qwen"}]
    assert sections(policy(**{**spec, "targetRefs": named}), [ROUTE]) == before | {""}


@given(ANYTHING, st.none() | st.dictionaries(WORDS, WORDS, max_size=2))
def test_whatever_a_listener_says_it_takes_routes_or_not(
    namespaces: Any, labels: dict[str, str] | None
) -> None:
    """Only a selector leaves it open, and none with the labels at hand."""
    one = Node({"allowedRoutes": {"namespaces": namespaces}})
    takes = admits(one, "edge", "llm", labels)
    assert takes in (True, False, None)
    assert takes is not None or (labels is None and namespaces["from"] == "Selector")
