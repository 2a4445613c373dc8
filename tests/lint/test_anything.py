"""Whatever somebody writes: lint says something about it or nothing, and never fails."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Document, Documents
from epp.lint import lint
from epp.lint.context import Context
from epp.lint.registry import BY_CODE
from epp.lint.view import GROUPS
from tests.lint.cases import CASES

OBJECTS = [one for case in CASES for name in ("bad", "good") for one in case.objects(name)]


def words(value: Any) -> set[str]:
    """Every key and text in it."""
    if isinstance(value, dict):
        return {*value, *(word for one in value.values() for word in words(one))}
    if isinstance(value, list):
        return {word for one in value for word in words(one)}
    return {value} if isinstance(value, str) else set()


WORDS = st.sampled_from(sorted(words(OBJECTS)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | WORDS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(WORDS, below, max_size=4),
    max_leaves=12,
)
WRITTEN = st.fixed_dictionaries(
    {"kind": st.sampled_from(sorted(GROUPS))},
    optional={"apiVersion": WORDS, "metadata": VALUES, "spec": VALUES, "status": VALUES, "data": VALUES},
)
CONTEXTS = st.builds(
    Context,
    is_live=st.booleans(),
    version=st.sampled_from([(0, 7), (1, 0), (1, 1)]),
    unread=st.frozensets(st.sampled_from(sorted(GROUPS)), max_size=3),
    namespaces=st.frozensets(st.just("llm")),
)


def says(objects: list[Any], context: Context) -> None:
    """Findings as they should be, whatever they are about."""
    for finding in lint(Documents([Document(one) for one in objects]), context):
        rule = BY_CODE[finding.code]
        assert list(type(finding.severity)).index(finding.severity) >= list(type(finding.severity)).index(
            rule.severity
        )
        assert finding.message and finding.fix


@given(objects=st.lists(WRITTEN, max_size=5), context=CONTEXTS)
def test_objects_of_anything(objects: list[Any], context: Context) -> None:
    says(objects, context)


@given(data=st.data(), context=CONTEXTS)
def test_objects_in_which_something_is_something_else(data: st.DataObject, context: Context) -> None:
    """All of a case, with a value somewhere in it replaced."""
    case = data.draw(st.sampled_from(CASES))
    objects = copy.deepcopy(case.objects(data.draw(st.sampled_from(["bad", "good"]))))
    holder: Any = data.draw(st.sampled_from(objects))
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        below = holder[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
            break
        holder = below
    holder[key] = data.draw(VALUES)
    says(objects, context)
