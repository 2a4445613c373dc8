"""``lora-affinity-scorer``: the endpoint that has the requested adapter loaded first."""

from collections.abc import Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, Lora, Scores


@dataclass(frozen=True, slots=True)
class LoraAffinityScorer:
    """Prefer endpoints with the request's adapter, then those that have room to load it.

    In:     n endpoints; ``load.lora`` (adapters running, waited for, and the limit), None when unknown;
            the request's target model.
    Out:    running 1.0; running + waiting adapters below the limit 0.8; waited for 0.6; else 0.0;
            None where the engine says nothing about adapters.
    Ties:   equal state, equal score.
    Better: an engine that says nothing about adapters is unknown, not worst.
    Source: upstream ``lora-affinity-scorer``.
    """

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        model = cycle.request.target_model or cycle.request.payload.model
        return [
            None if endpoint.load.lora is None else _affinity(model, endpoint.load.lora)
            for endpoint in endpoints
        ]


def _affinity(model: str, lora: Lora) -> float:
    if model in lora.running:
        return 1.0
    if len(lora.running) + len(lora.waiting) < lora.max_adapters:
        return 0.8
    return 0.6 if model in lora.waiting else 0.0
