"""Who may read the pages: a real picker asks a real Kubernetes API (--metrics-endpoint-auth)."""

import json

import pytest

from bench.rig.kube import ADMIN
from bench.rig.picker import Picker
from bench.rig.process import http_get, wait_until
from tests.system.cluster import STRANGER, TOKEN, Stage

pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]
READER = "picker-token"
"""deploy/kubernetes/rbac.yaml lets Prometheus read with the picker's own token."""


def guarded(stage: Stage, token: str = TOKEN) -> Picker:
    """One that is not told otherwise: it asks."""
    picker = stage.picker(token=token)
    picker.command.remove("--metrics-endpoint-auth=false")
    return picker


def ask(picker: Picker, path: str, token: str = "") -> tuple[int, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    status, body = http_get(f"{picker.metrics_url}{path}", headers=headers)
    return status, body.decode()


def why(answer: tuple[int, str]) -> tuple[int, str]:
    status, body = answer
    return status, str(json.loads(body)["error"])


def test_pages_are_for_those_whom_the_cluster_lets_get_them(stage: Stage) -> None:
    stage.apply(stage.pool())
    with guarded(stage) as picker:
        status, body = ask(picker, "/metrics", READER)
        assert status == 200 and "llm_d_epp_ready_endpoints" in body
        assert ask(picker, "/debug/endpoints", ADMIN)[0] == 200
        assert why(ask(picker, "/metrics")) == (
            401,
            "/metrics: send Authorization: Bearer TOKEN, of one who may get it",
        )
        assert why(ask(picker, "/metrics", "guess")) == (
            401,
            "/metrics: the cluster does not know this token, or it has run out",
        )
        refusal = (
            "/metrics: system:serviceaccount:models:stranger may not get it: bind a ClusterRole with"
            " nonResourceURLs: [/metrics], verbs: [get] to it"
        )
        assert why(ask(picker, "/metrics", STRANGER)) == (403, refusal)
        assert why(ask(picker, "/debug/endpoints", READER))[0] == 403
        assert ask(picker, "/healthz")[0] == ask(picker, "/readyz")[0] == 200
        assert not any(token in picker.log.read_text() for token in (READER, STRANGER, ADMIN, "guess"))


def test_a_picker_that_may_not_ask_says_which_right_is_missing(stage: Stage) -> None:
    stage.apply(stage.pool())
    picker = guarded(stage, STRANGER).launch()
    wait_until(lambda: picker.health("liveness") == "SERVING", what="alive")
    wait_until(lambda: answers(picker), what="its pages")
    status, error = why(ask(picker, "/metrics", ADMIN))
    assert status == 500
    assert 'cannot create resource "tokenreviews" in API group "authentication.k8s.io"' in error
    assert "nobody can be asked who may see the pages" in picker.log.read_text()


def answers(picker: Picker) -> bool:
    try:
        return ask(picker, "/healthz")[0] == 200
    except OSError:
        return False
