"""Requests that wait in the picker, behind a real Envoy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rig.envoy import Envoy, Listener
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.gate import Gate
from tests.system.talk import CHAT, Client, ask, chat, series, wait_reachable

CONFIG = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "featureGates": ["flowControl"],
    "plugins": [
        {"type": "active-request-scorer"},
        {"type": "concurrency-detector", "parameters": {"maxConcurrency": 1}},
    ],
    "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": "active-request-scorer"}]}],
    "flowControl": {
        "saturationDetector": {"pluginRef": "concurrency-detector"},
        "priorityBands": [{"priority": 0, "maxRequests": 2}],
    },
}


@contextmanager
def asking(gateway: Envoy) -> Iterator[Client]:
    """A client that has asked for a stream."""
    body = chat(stream=True)
    with Client(gateway.url("in")) as client:
        client.send_head(CHAT, [("content-length", str(len(body)))], method="POST")
        client.send(body)
        yield client


def test_requests_wait_for_the_one_that_runs_and_who_leaves_is_gone(driver: str, logs: Path) -> None:
    with (
        Gate() as gate,
        Picker(
            logs=logs, name="picker-flow", endpoints={"gate": gate.address}, config=CONFIG, driver=driver
        ) as picker,
        Envoy(
            logs=logs,
            name="envoy-flow",
            servers=[gate.address],
            picker=picker.address,
            listeners={"in": Listener()},
        ) as gateway,
    ):
        wait_reachable(picker, {"gate": "up"})

        def waiting() -> float | None:
            return series(picker).get("llm_d_epp_flow_control_queue_size")

        with asking(gateway) as running:
            running.read_until(b"t0")
            with asking(gateway) as second:
                wait_until(lambda: waiting() == 1, what="the second request waits")
                with asking(gateway):
                    wait_until(lambda: waiting() == 2, what="the third request waits")
                    refused = ask(gateway.url("in"), CHAT, chat(stream=True))
                    assert refused.status == 429
                    assert refused.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
                wait_until(lambda: waiting() == 1, what="the third client has left")
                assert not second.has_answer()
                gate.open()
                assert running.read().events()[-1] == "[DONE]"
                assert second.read().events()[-1] == "[DONE]"
        wait_until(lambda: waiting() == 0, what="nobody waits")
