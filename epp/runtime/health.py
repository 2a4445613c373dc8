"""grpc.health.v1, and what it and /readyz answer from: whether traffic should come here.

Place:   Readiness is written by main and discovery; the handler hangs on the health port and, with
         --health-checking, on the serving port.
Rule:    ``liveness`` is SERVING as long as somebody answers; every other name is SERVING if and only
         if the process is ready, as upstream does without leader election. Watch is unimplemented.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from epp.runtime.calls import CallFailed, Code, Services
from epp.wire.pb.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListResponse,
)

SERVICE = "grpc.health.v1.Health"
LIVENESS = "liveness"
NAMES = ("", LIVENESS, "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")
"""What List tells; Check answers for any name."""


class Readiness:
    """Whether this process should get traffic, and what is worth knowing about it."""

    def __init__(self) -> None:
        self.is_synced = False
        """The pool's endpoints have been read once (there may be none)."""
        self.is_draining = False
        self._details: dict[str, Callable[[], str]] = {}

    @property
    def is_ready(self) -> bool:
        return self.is_synced and not self.is_draining

    @property
    def reason(self) -> str:
        """Why the process is not ready; empty when it is."""
        if self.is_draining:
            return "draining: the process was told to stop"
        return "" if self.is_synced else "the pool's endpoints have not been read yet"

    def explain(self, subject: str, read: Callable[[], str]) -> None:
        """Show what ``read`` returns under ``subject``; an empty text is not shown."""
        self._details[subject] = read

    def details(self) -> dict[str, str]:
        """What is wrong without making the process unready."""
        read = {subject: read() for subject, read in self._details.items()}
        return {subject: text for subject, text in read.items() if text}


class HealthService:
    """Answers from ``state``."""

    def __init__(self, state: Readiness) -> None:
        self._state = state

    def services(self) -> Services:
        """What a driver is to serve."""
        return {
            f"/{SERVICE}/Check": lambda _push: _Unary(self._check),
            f"/{SERVICE}/List": lambda _push: _Unary(self._list),
        }

    def _status(self, name: str) -> HealthCheckResponse:
        serving = name == LIVENESS or self._state.is_ready
        return HealthCheckResponse(
            status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        )

    def _check(self, message: bytes) -> bytes:
        return self._status(HealthCheckRequest.FromString(message).service).SerializeToString()

    def _list(self, _message: bytes) -> bytes:
        statuses = {name: self._status(name) for name in NAMES}
        return HealthListResponse(statuses=statuses).SerializeToString()


class _Unary:
    """A Call of one message and one answer."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self.is_over = False
        self.is_waiting = False

    def receive(self, message: bytes) -> list[bytes]:
        try:
            answer = self._answer(message)
        except DecodeError as fault:
            raise CallFailed(Code.INVALID_ARGUMENT, "not a grpc.health.v1 request") from fault
        self.is_over = True
        return [answer]

    def delivered(self) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Nothing was taken."""
