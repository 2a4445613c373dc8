"""grpc.health.v1, and what it and /readyz answer from: whether traffic should come here.

Place:   Readiness is written by main and discovery; the handler hangs on the health port and, with
         --health-checking, on the serving port.
Rule:    ``liveness`` is SERVING as long as somebody answers; every other name is SERVING if and only
         if the process is ready, as upstream does without leader election. Watch is unimplemented.
"""

from collections.abc import Callable
from typing import Any

import grpc

from epp.wire.pb.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
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


def health_handler(state: Readiness) -> grpc.GenericRpcHandler:
    """The service for a grpc.aio server."""

    def status(name: str) -> HealthCheckResponse:
        serving = name == LIVENESS or state.is_ready
        return HealthCheckResponse(
            status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        )

    async def check(request: HealthCheckRequest, _context: Any) -> HealthCheckResponse:
        return status(request.service)

    async def list_all(_request: HealthListRequest, _context: Any) -> HealthListResponse:
        return HealthListResponse(statuses={name: status(name) for name in NAMES})

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                check,
                request_deserializer=HealthCheckRequest.FromString,
                response_serializer=HealthCheckResponse.SerializeToString,
            ),
            "List": grpc.unary_unary_rpc_method_handler(
                list_all,
                request_deserializer=HealthListRequest.FromString,
                response_serializer=HealthListResponse.SerializeToString,
            ),
        },
    )
