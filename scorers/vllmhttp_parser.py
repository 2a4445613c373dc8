"""``vllmhttp-parser``: vLLM's own generate API."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class VllmhttpParser:
    """Understands ``inference/v1/generate``; without parameters.

    Better: the bytes that came are forwarded, none is written anew.
    Source: upstream ``vllmhttp-parser``.
    """

    kind: ClassVar[Kind] = Kind.PARSER
