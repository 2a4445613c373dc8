"""``token-producer``: prompts are measured in estimated tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from epp.core.scoring import BYTES_PER_TOKEN, Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProducer:
    """Says that prompts are measured by estimate, 4 bytes to a token, which they always are.

    In:     the prompt [bytes].
    Out:    its length in ``cycle.facts`` [tokens], for plugins of one's own; others know it.
    Lacks:  asking servers for tokens (``vllm``); settings of ``estimate``.
    Source: upstream ``token-producer`` with ``estimate``, its default.
    """

    model_name: str = field(default="", metadata={"without_effect": "an estimate is the same for all models"})
    estimate: dict[str, Any] | None = None
    """Only an empty one is taken: an image counts as 640 by 360 / 1024 = 225 tokens."""
    vllm: dict[str, Any] | None = None
    """Refused: no server is asked for tokens."""
    uds_tokenizer_config: dict[str, Any] | None = None
    """Refused, as ``vllm``."""

    def __post_init__(self) -> None:
        for name, value in (("vllm", self.vllm), ("udsTokenizerConfig", self.uds_tokenizer_config)):
            if value is not None:
                raise ValueError(
                    f"{name}: asking for tokens is not supported by this version, write estimate: {{}}"
                )
        if self.estimate:
            raise ValueError("estimate: settings of it are not supported by this version, write estimate: {}")

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None:
        size = len(cycle.request.payload.prompt)
        cycle.facts[name] = (size + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None:
        """Nothing to be remembered."""
