"""``prefill-filter``: only endpoints that can work on prompts for others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import ROLE_LABEL, Cycle, Endpoint

ROLES = frozenset({"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"})


@dataclass(frozen=True, slots=True)
class PrefillFilter:
    """Keep the endpoints whose role is to work on prompts for others.

    In:     endpoints with the label ``llm-d.ai/role``.
    Out:    those whose label is ``prefill``, ``encode-prefill``, ``prefill-decode``, ``both`` or
            ``encode-prefill-decode``; in their order.
    Source: upstream ``prefill-filter``.
    """

    from_readings: ClassVar[bool] = True
    before_lifecycle: ClassVar[bool] = True

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return [endpoint for endpoint in endpoints if endpoint.labels.get(ROLE_LABEL) in ROLES]
