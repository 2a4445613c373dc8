"""What no folder of tests/golden/lint shows: contexts, annotations, secrecy, what stays unsaid."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.compiler.findings import Severity
from epp.lint.context import Context
from epp.lint.registry import BY_CODE, FAMILIES, RULES
from epp.lint.view import GROUPS
from tests.lint.cases import CASES, linted

COMPILED = sorted(
    (Path(__file__).parents[1] / "golden" / "compiler").glob("*/envoy-ai-gateway-*.yaml"),
)


def case(code: str, name: str = "bad") -> list[dict[str, Any]]:
    (found,) = [one for one in CASES if one.code == code]
    return found.objects(name)


def codes(*objects: dict[str, Any], **context: Any) -> list[tuple[str, Severity]]:
    return [(one.code, one.severity) for one in linted(*objects, context=Context(**context))]


def changed(document: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], **meta}}


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_the_compiler_makes_has_no_error(path: Path) -> None:
    version = tuple(map(int, path.stem.removeprefix("envoy-ai-gateway-").split(".")))
    made = [one for one in yaml.safe_load_all(path.read_text()) if one]
    errors = [one for one in linted(*made, context=Context(version=version)) if one.is_error]
    assert errors == []


def test_there_is_something_that_the_compiler_has_made() -> None:
    assert COMPILED


@pytest.mark.parametrize("code", BY_CODE)
def test_every_rule_says_what_it_is_for(code: str) -> None:
    rule = BY_CODE[code]
    assert len(rule.incident) > 100 and rule.title and not rule.title.endswith(".")
    assert all(each.kind in GROUPS for each in rule.admissions)


def test_codes_are_given_once() -> None:
    assert len(BY_CODE) == len(RULES)
    assert {rule.family for rule in RULES} == {module.__name__.rpartition(".")[2] for module in FAMILIES}


def test_the_annotation_says_that_it_is_meant_so() -> None:
    (bad,) = case("UnusableAddress")
    meant = changed(bad, annotations={"fleet-epp.dev/lint-ignore": "MissingTimeout, UnusableAddress"})
    assert codes(bad) == [("UnusableAddress", Severity.ERROR)]
    assert codes(meant) == []


def test_keys_are_never_shown() -> None:
    shown = repr(linted(*case("DuplicateApiKey")))
    assert "DuplicateApiKey" in shown
    assert "not-a-real-key" not in shown and "bm90LWEtcmVhbC1rZXk" not in shown


def test_before_v1_1_the_pool_is_in_the_routes_namespace_whatever_is_granted() -> None:
    good = case("PoolInOtherNamespace", "good")
    assert codes(*good, version=(1, 1)) == []
    assert codes(*good, version=(1, 0)) == [("PoolInOtherNamespace", Severity.ERROR)]


def test_a_pool_of_another_namespace_is_found_behind_others() -> None:
    """Behind one of its own namespace, and behind what is no pool."""
    route, *around = case("PoolInOtherNamespace")
    (rule,) = route["spec"]["rules"]
    (far,) = rule["backendRefs"]
    near, service = {**far, "namespace": "llm"}, {"name": "openai"}
    for first in (near, service):
        spec = {**route["spec"], "rules": [{**rule, "backendRefs": [first, far]}]}
        found = codes({**route, "spec": spec}, *around, version=(1, 1))
        assert ("PoolInOtherNamespace", Severity.ERROR) in found


class TestWhatIsNotThere:
    """A reference that leads out of what was given."""

    def backends(self) -> list[dict[str, Any]]:
        return case("MissingBackend")

    def test_in_a_cluster_it_is_missing(self) -> None:
        found = codes(*self.backends(), is_live=True, unread=frozenset({"BackendTrafficPolicy"}))
        assert found == [("MissingBackend", Severity.ERROR)]

    def test_in_files_it_is_a_remark_where_others_of_its_kind_are(self) -> None:
        assert codes(*self.backends()) == [("MissingBackend", Severity.INFO)]

    def test_in_files_it_may_be_elsewhere(self) -> None:
        (route, *_) = self.backends()
        assert codes(route) == []

    def test_in_a_cluster_of_which_its_namespace_was_not_read_nothing_is_said(self) -> None:
        assert codes(*self.backends(), is_live=True, namespaces=frozenset({"other"})) == []

    def test_in_a_cluster_that_keeps_the_kind_to_itself_nothing_is_said(self) -> None:
        unread = frozenset({"AIServiceBackend", "Backend", "BackendTrafficPolicy"})
        assert codes(*self.backends()[:1], is_live=True, unread=unread) == []

    def test_policies_that_may_not_be_read_are_not_missing(self) -> None:
        objects = case("MissingHeaderHygiene")[:2]
        told = {code for code, _ in codes(*objects)}
        assert told == {"MissingHeaderHygiene", "SmallBuffer"}
        unread = frozenset({"ClientTrafficPolicy", "AIServiceBackend", "GatewayClass"})
        assert codes(*objects, is_live=True, unread=unread) == []


class TestListeners:
    """Whether two Gateways have one controller."""

    def gateways(self, first: str, second: str, *classes: tuple[str, str]) -> list[dict[str, Any]]:
        (ai,) = case("NonHttpListener")
        plain = {
            **ai,
            "spec": {**ai["spec"], "gatewayClassName": first, "listeners": ai["spec"]["listeners"][:1]},
        }
        other = {
            **changed(ai, name="databases", annotations={}),
            "spec": {**ai["spec"], "gatewayClassName": second},
        }
        kinds = [
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": {"name": name},
                "spec": {"controllerName": controller},
            }
            for name, controller in classes
        ]
        return [plain, other, *kinds]

    def test_of_one_class_they_have(self) -> None:
        assert codes(*self.gateways("envoy", "envoy")) == [("NonHttpListener", Severity.ERROR)]

    def test_of_two_classes_of_one_controller_they_have(self) -> None:
        classes = [("envoy", "example.com/one"), ("other", "example.com/one")]
        assert codes(*self.gateways("envoy", "other", *classes)) == [("NonHttpListener", Severity.ERROR)]

    def test_of_two_classes_that_are_not_given_nobody_knows(self) -> None:
        assert codes(*self.gateways("envoy", "other")) == []

    def test_without_attributes_of_the_log_it_does_not_matter(self) -> None:
        (controller,) = case("InsecureSeed", "good")
        container = controller["spec"]["template"]["spec"]["containers"][0]
        container["args"].append("--logRequestHeaderAttributes=")
        assert codes(*self.gateways("envoy", "envoy"), controller) == []


class TestReordering:
    """Two rules of a route with the Gateway's settings."""

    def test_the_order_may_be_kept(self) -> None:
        route, gateway, *rest = case("RulesReordered")
        named = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ai"}
        spec = {**gateway["spec"], "infrastructure": {"parametersRef": named}}
        proxy = {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": {"name": "ai", "namespace": "llm"},
            "spec": {"preserveRouteOrder": True},
        }
        objects = [route, {**gateway, "spec": spec}, *rest]
        assert codes(*objects, proxy) == []
        assert codes(*objects) == []  # the EnvoyProxy is not given
        assert codes(*objects, {**proxy, "spec": {}}) == [("RulesReordered", Severity.WARNING)]

    def test_a_special_case_may_overtake(self) -> None:
        route, *rest = case("RulesReordered")
        first, second = route["spec"]["rules"]
        narrower = {
            **second,
            "matches": [{"headers": [*first["matches"][0]["headers"], {"name": "x", "value": "y"}]}],
        }
        assert codes({**route, "spec": {**route["spec"], "rules": [first, narrower]}}, *rest) == []


def test_a_default_may_be_shadowed_where_nobody_knows_who_is_older() -> None:
    objects = [changed(one) for one in case("DefaultShadowed")]
    for one in objects:
        one["metadata"].pop("creationTimestamp")
    (finding,) = linted(*objects)
    assert finding.code == "DefaultShadowed" and "may become the older one" in finding.message


def test_envoy_ai_gateway_has_a_condition_of_its_own_for_refusals() -> None:
    (route, *_) = case("MissingBackend")
    refused = {
        "type": "NotAccepted",
        "status": "False",
        "reason": "ReconciliationFailed",
        "message": "no opanai",
    }
    (finding,) = linted({**route, "status": {"conditions": [refused]}})
    assert (finding.code, finding.message) == ("NotAccepted", "says ReconciliationFailed: no opanai")


def test_what_is_not_ours_is_not_meant() -> None:
    """Istio has a Gateway too, and kgateway a Backend."""
    (bad,) = case("UnusableAddress")
    assert codes({**bad, "apiVersion": "gateway.kgateway.dev/v1alpha1"}) == []
