"""grpc.health.v1, and what it and /readyz answer from: whether traffic should come here.

Place:   Readiness is written by main and discovery; the handler hangs on the health port and, with
         --health-checking, on the serving port.
Rule:    ``liveness`` is SERVING as long as somebody answers; every other name is SERVING if and only
         if the process is ready. With leader election only the leader is ready, and names that nobody has
         agreed on are SERVICE_UNKNOWN. Both as upstream; Watch is unimplemented.
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
"""What List tells. With leader election the only ones; without it Check answers for any name."""


class Readiness:
    """Whether this process should get traffic, and what is worth knowing about it; or one of its pools.

    ``above``: of the process.
    """

    def __init__(self, above: "Readiness | None" = None) -> None:
        self._above = above
        self.is_synced = False
        """The pool's endpoints have been read once (there may be none)."""
        self.is_draining = False
        self.follows: Callable[[], str] | None = None
        """Why another replica is to get the traffic; empty: this one is. None: there is no election."""
        self._details: dict[str, Callable[[], str]] = {}

    @property
    def is_ready(self) -> bool:
        return not self.reason

    @property
    def reason(self) -> str:
        """Why traffic should not come here; empty when it should."""
        if self._above is not None and (reason := self._above.reason):
            return reason
        if self.is_draining:
            return "draining: the process was told to stop"
        if not self.is_synced:
            return "the pool's endpoints have not been read yet"
        return "" if self.follows is None else self.follows()

    @property
    def has_election(self) -> bool:
        """Only one of several replicas is ready."""
        return self.follows is not None or (self._above is not None and self._above.has_election)

    def explain(self, subject: str, read: Callable[[], str]) -> None:
        """Show what ``read`` returns under ``subject``; an empty text is not shown."""
        self._details[subject] = read

    def forget(self, subject: str, read: Callable[[], str]) -> None:
        """Show nothing under it any more, unless somebody else explains it by now."""
        if self._details.get(subject) == read:
            del self._details[subject]

    def details(self) -> dict[str, str]:
        """What is wrong without making the process unready."""
        read = {subject: read() for subject, read in self._details.items()}
        return {subject: text for subject, text in read.items() if text}


class HealthService:
    """Answers from ``state``; ``pools`` of a name finds the one that is asked for alone, where there is."""

    def __init__(
        self, state: Readiness, pools: Callable[[str], Readiness | None] = lambda name: None
    ) -> None:
        self._state = state
        self._pools = pools

    def services(self) -> Services:
        """What a driver is to serve."""
        return {
            f"/{SERVICE}/Check": lambda _push: _Unary(self._check),
            f"/{SERVICE}/List": lambda _push: _Unary(self._list),
        }

    def _status(self, name: str) -> HealthCheckResponse:
        pool = self._pools(name)
        if pool is None and self._state.has_election and name not in NAMES:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        serving = name == LIVENESS or (pool or self._state).is_ready
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
