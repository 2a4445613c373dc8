"""``destination-endpoint-served-verifier``: tells the client which endpoint served, for conformance tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind

HEADER = "x-conformance-test-served-endpoint"
MISSING = "fail: missing destination endpoint served metadata"


@dataclass(frozen=True, slots=True)
class DestinationEndpointServedVerifier:
    """Tell in a response header which endpoint served, as the gateway names it; without parameters.

    In:     the gateway's metadata ``envoy.lb``, ``x-gateway-destination-endpoint-served``.
    Out:    the response header ``x-conformance-test-served-endpoint`` with that address; with
            ``fail: missing destination endpoint served metadata`` where the gateway names none.
    Source: upstream ``destination-endpoint-served-verifier``; the conformance suite of the Gateway API
            Inference Extension.
    """

    kind: ClassVar[Kind] = Kind.RESPONSE_HEADER

    def served_header(self, served: str | None) -> Mapping[str, str]:
        """The header to be set, for the endpoint that the gateway names."""
        return {HEADER: served or MISSING}
