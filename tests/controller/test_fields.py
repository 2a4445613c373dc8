"""Whether applying would change anything, by the API's own notes of whose each field is."""

from typing import Any

import pytest

from epp.controller.fields import APPLIED, FIELD_MANAGER, is_as_wanted, ours_of, stamped, unstamped


def live(spec: dict[str, Any], ours: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """As the API shows it. ``ours``: FieldsV1 of the spec."""
    labels = {"f:labels": {"f:app": {}}}
    entry = {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "fieldsV1": {"f:spec": ours, "f:metadata": labels},
    }
    meta = {"name": "one", "namespace": "llm", "labels": {"app": "x", "theirs": "y"}, **metadata}
    status = {"phase": "Ready"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**meta, "managedFields": [entry]},
        "spec": spec,
        "status": status,
    }


def wanted(spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": "one", "namespace": "llm", "labels": {"app": "x"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


PORT = 'k:{"port":80,"protocol":"TCP"}'
PORTS = {"f:ports": {PORT: {".": {}, "f:port": {}, "f:name": {}}}}
THERE = {"port": 80, "protocol": "TCP", "name": "http", "targetPort": 80}


@pytest.mark.parametrize(
    "ask, have, ours, is_equal",
    [
        pytest.param({"a": 1}, {"a": 1}, {"f:a": {}}, True, id="equal"),
        pytest.param({"a": 1}, {"a": 1, "b": 2}, {"f:a": {}}, True, id="filled-in"),
        pytest.param({"a": 1}, {"a": 2}, {"f:a": {}}, False, id="changed"),
        pytest.param({"a": True}, {"a": 1}, {"f:a": {}}, False, id="true-is-no-number"),
        pytest.param({"a": 1}, {}, {"f:a": {}}, False, id="gone"),
        pytest.param({"a": 1}, {"a": 1}, {".": {}}, False, id="taken-by-others"),
        pytest.param({"a": 1}, {"a": 1, "b": 2}, {"f:a": {}, "f:b": {}}, False, id="not-wanted-any-more"),
        pytest.param({"a": []}, {}, {}, True, id="nothing-and-left-out"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, {"f:a": {}}, True, id="list-filled-in"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"b": 1}] * 2}, {"f:a": {}}, False, id="list-longer"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, {"f:a": {}}, False, id="list-changed"),
        pytest.param({"a": ["x", "y"]}, {"a": ["y", "x"]}, {"f:a": {}}, False, id="list-in-another-order"),
        pytest.param({"a": [{"b": [1]}]}, {"a": [{"b": [2]}]}, {"f:a": {}}, False, id="deep-in-a-list"),
        pytest.param({"a": ["x"]}, {"a": "x"}, {"f:a": {}}, False, id="text-is-no-list"),
        pytest.param({"a": ["x"]}, {"a": ["x", "y"]}, {"f:a": {'v:"x"': {}}}, True, id="set-of-several"),
        pytest.param({"a": ["x"]}, {"a": ["y"]}, {"f:a": {'v:"x"': {}}}, False, id="set-without-ours"),
        pytest.param(
            {"ports": [{"port": 80, "name": "http"}]}, {"ports": [THERE]}, PORTS, True, id="by-keys"
        ),
        pytest.param(
            {"ports": [{"port": 80, "name": "http"}]},
            {"ports": [{"port": 9, "protocol": "UDP"}, THERE]},
            PORTS,
            True,
            id="by-keys-beside-others",
        ),
        pytest.param(
            {"ports": [{"port": 80, "name": "h2"}]}, {"ports": [THERE]}, PORTS, False, id="by-keys-changed"
        ),
        pytest.param({"ports": []}, {"ports": [THERE]}, PORTS, False, id="by-keys-one-too-many"),
        pytest.param(
            {"ports": [{"port": 80, "name": "http"}, {"port": 81}]},
            {"ports": [THERE]},
            PORTS,
            False,
            id="by-keys-one-more",
        ),
        pytest.param(
            {"a": [{"uid": "u", "b": 1}]},
            {"a": [{"uid": "u", "b": 1}]},
            {"f:a": {'k:{"uid":"u"}': {}}},
            True,
            id="whole-items",
        ),
        pytest.param(
            {"a": [{"uid": "u", "b": 2}]},
            {"a": [{"uid": "u", "b": 1}]},
            {"f:a": {'k:{"uid":"u"}': {}}},
            False,
            id="whole-items-changed",
        ),
    ],
)
def test_the_spec(ask: dict[str, Any], have: dict[str, Any], ours: dict[str, Any], is_equal: bool) -> None:
    assert is_as_wanted(wanted(ask), live(have, ours)) is is_equal


def test_an_object_without_our_notes_is_not_as_wanted() -> None:
    there = live({"a": 1}, {"f:a": {}})
    there["metadata"]["managedFields"][0]["operation"] = "Update"
    assert not is_as_wanted(wanted({"a": 1}), there)


def test_labels_count_and_those_of_others_do_not() -> None:
    there = live({"a": 1}, {"f:a": {}})
    there["metadata"]["labels"]["app"] = "z"
    assert not is_as_wanted(wanted({"a": 1}), there)


def test_what_is_shown_of_an_object_is_ours() -> None:
    there = live({"a": 1, "b": 2, "c": {"d": 1, "e": 2}}, {"f:a": {}, "f:c": {"f:d": {}}})
    shown = ours_of(there, wanted({"a": 3}))
    assert shown["spec"] == {"a": 1, "c": {"d": 1}}
    assert shown["metadata"] == {"name": "one", "namespace": "llm", "labels": {"app": "x"}}
    assert "status" not in shown


def test_a_field_that_is_to_go_from_within_a_list_is_shown() -> None:
    there = live({"rules": [{"name": "a", "override": "b", "weight": 1}]}, {"f:rules": {}})
    less = stamped(wanted({"rules": [{"name": "a", "weight": 1}]}))
    assert ours_of(there, less)["spec"] == {"rules": [{"name": "a", "override": "b", "weight": 1}]}


def test_what_the_api_has_filled_in_is_not_shown_as_going() -> None:
    ports = [{"port": n, "protocol": "TCP", "name": f"pool-{n}", "targetPort": n} for n in (1, 2, 3)]
    notes = {f'k:{{"port":{n},"protocol":"TCP"}}': {".": {}, "f:port": {}, "f:name": {}} for n in (1, 2, 3)}
    left = [{"port": 1, "name": "pool-1"}, {"port": 3, "name": "pool-3", "targetPort": 9}]
    shown = ours_of(live({"ports": ports}, {"f:ports": notes}), wanted({"ports": left}))["spec"]["ports"]
    assert shown == [
        {"name": "pool-1", "port": 1},
        {"port": 2, "name": "pool-2"},
        {"port": 3, "name": "pool-3", "targetPort": 3},
    ]


def test_the_hash_is_not_shown() -> None:
    one = wanted({"a": 1})
    assert unstamped(stamped(one)) == one
    assert "annotations" not in ours_of(live({"a": 2}, {"f:a": {}}), stamped(one))["metadata"]


def test_the_hash_is_of_what_is_wanted_however_it_is_ordered() -> None:
    one, same, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3})
    of = [stamped(wanted(spec))["metadata"]["annotations"][APPLIED] for spec in (one, same, other)]
    assert of[0] == of[1] != of[2]
