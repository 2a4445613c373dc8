"""``anthropic-parser``: the Anthropic messages API."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class AnthropicParser:
    """Understands messages; without parameters.

    Better: the bytes that came are forwarded, none is written anew.
    Source: upstream ``anthropic-parser``.
    """

    kind: ClassVar[Kind] = Kind.PARSER
