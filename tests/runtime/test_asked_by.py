"""Who asks for Kubernetes is named where there is none."""

from typing import Any

import pytest

from epp.config.flags import parse
from epp.process import build_process
from epp.runtime.kubernetes.api import KubernetesApi


@pytest.mark.parametrize(
    "arguments, flag",
    [
        (["--pool-name=qwen"], "pool-name"),
        (["--endpoint-selector=app=qwen", "--endpoint-target-ports=8000"], "endpoint-selector"),
        (["--pool=qwen=9100"], "pool"),
        (["--pool-service=picker"], "pool-service"),
        (["--pool-service=picker", "--pool=qwen=9100"], "pool"),
        (["--pool-service=picker", "--pool-name=qwen"], "pool-name"),
        (["--pool-service=picker", "--pool-name=qwen", "--endpoints-file=servers.yaml"], "pool-service"),
    ],
)
def test_the_flag_that_was_given_is_named(
    arguments: list[str], flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def api(environment: Any, *, flag: str) -> KubernetesApi:
        asked.append(flag)
        return KubernetesApi(environment, flag=flag)

    monkeypatch.setattr("epp.runtime.kubernetes.api.KubernetesApi", api)
    nobody: Any = None  # nothing is asked for
    build_process(parse(arguments, {}), request_log=nobody)
    assert asked == [flag]
