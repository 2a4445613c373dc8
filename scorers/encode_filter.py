"""``encode-filter``: only endpoints that can encode images and sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import ROLE_LABEL, Cycle, Endpoint

ROLES = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})


@dataclass(frozen=True, slots=True)
class EncodeFilter:
    """Keep the endpoints whose role is to encode images and sound for others.

    In:     endpoints with the label ``llm-d.ai/role``.
    Out:    those whose label is ``encode``, ``encode-prefill`` or ``encode-prefill-decode``; in their order.
    Source: upstream ``encode-filter``.
    """

    from_readings: ClassVar[bool] = True
    before_lifecycle: ClassVar[bool] = True

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return [endpoint for endpoint in endpoints if endpoint.labels.get(ROLE_LABEL) in ROLES]
