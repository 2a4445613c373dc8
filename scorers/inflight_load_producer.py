"""``inflight-load-producer``: books each request's work on the endpoint that got it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class InflightLoadProducer:
    """Estimate the tokens of work a request brings to the picked endpoint.

    In:     the prompt's estimated tokens; the PrefixMatch of the named producer, if there is one.
    Out:    ``cycle.charge`` [tokens]: the prompt without its cached part, plus, with
            ``addEstimatedOutputTokens``, ``outputRatio`` times the prompt, at most
            ``maxEstimatedOutputTokens`` and what the request itself allows. Before the pick, a function in
            ``cycle.facts`` that tells the same of any endpoint.
    Better: a request is booked when it is picked and given back however it ends; there is no reaper.
    Lacks:  knowing what other replicas sent.
    Source: upstream ``inflight-load-producer``. Requests in flight are counted without it.
    """

    add_estimated_output_tokens: bool = False
    """Book the output that the request probably brings as well."""
    output_ratio: float = 1.5
    """Estimated output tokens per prompt token."""
    max_estimated_output_tokens: int | None = None
    """The most output tokens that are booked; None: no limit."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    sync_cross_replica_state: bool = field(
        default=False, metadata={"without_effect": "replicas do not share their state"}
    )

    uses: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }

    def __post_init__(self) -> None:
        if not 0 <= self.output_ratio <= 1000:
            raise ValueError(f"outputRatio: must be from 0 to 1000, got {self.output_ratio:g}")
        if self.max_estimated_output_tokens is not None and self.max_estimated_output_tokens < 0:
            raise ValueError(
                f"maxEstimatedOutputTokens: must be at least 0, got {self.max_estimated_output_tokens}"
            )

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None:
        """For others: what the request would bring to an endpoint."""
        cycle.facts[name] = self.charge

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None:
        cycle.charge = self.charge(cycle, endpoint)

    def charge(self, cycle: Cycle, endpoint: Endpoint) -> int:
        """The work [tokens] that this request is for an endpoint."""
        prompt = cycle.request.prompt_tokens
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        cached = match.blocks.get(endpoint, 0) * match.block_tokens if match is not None else 0
        charge = max(0, prompt - cached)
        if self.add_estimated_output_tokens:
            charge += self._output(prompt, cycle.request.payload.max_output_tokens)
        return charge

    def _output(self, prompt: int, allowed: int | None) -> int:
        limits = [limit for limit in (self.max_estimated_output_tokens, allowed) if limit is not None]
        return max(0, min([round(prompt * self.output_ratio), *limits]))
