"""``openai-parser``: the OpenAI request APIs."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class OpenaiParser:
    """Understands chat completions, completions, embeddings, responses and images; without parameters.

    The reading itself is in epp.core.apis, as for every parser.

    Better: the bytes that came are forwarded, none is written anew.
    Source: upstream ``openai-parser``.
    """

    kind: ClassVar[Kind] = Kind.PARSER
