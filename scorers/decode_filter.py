"""``decode-filter``: only endpoints that can generate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import ROLE_LABEL, Cycle, Endpoint

ROLES = frozenset({"decode", "prefill-decode", "both", "encode-prefill-decode"})


@dataclass(frozen=True, slots=True)
class DecodeFilter:
    """Keep the endpoints whose role is to generate tokens.

    In:     endpoints with the label ``llm-d.ai/role``.
    Out:    those whose label is ``decode``, ``prefill-decode``, ``both`` or ``encode-prefill-decode``, and
            those without the label; in their order.
    Source: upstream ``decode-filter``.
    """

    from_readings: ClassVar[bool] = True
    before_lifecycle: ClassVar[bool] = True

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return [endpoint for endpoint in endpoints if endpoint.labels.get(ROLE_LABEL, "decode") in ROLES]
