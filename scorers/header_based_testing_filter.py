"""``header-based-testing-filter``: the request says which endpoints may serve it (conformance tests)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, addressed

HEADER = "test-epp-endpoint-selection"


@dataclass(frozen=True, slots=True)
class HeaderBasedTestingFilter:
    """Keep the endpoints named in the request header ``test-epp-endpoint-selection``.

    In:     a comma list of ``ip``, ``ip:port`` or ``[v6]:port``; a bare IP stands for any port.
    Out:    the endpoints named, in their own order; none at all when the header is missing or empty.
    Source: upstream ``header-based-testing-filter``, for the Gateway API conformance suite.
    """

    before_lifecycle: ClassVar[bool] = True

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        named = cycle.request.headers.get(HEADER, "")
        return addressed(endpoints, [entry for entry in named.split(",") if entry.strip()])
