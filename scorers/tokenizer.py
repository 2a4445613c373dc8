"""``tokenizer``: the former name of ``token-producer``."""

from dataclasses import dataclass
from typing import ClassVar

from scorers.token_producer import TokenProducer


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer(TokenProducer):
    """The former name of ``token-producer``, with the same parameters.

    Lacks:  asking servers for tokens.
    Source: upstream ``tokenizer``, deprecated in v0.9.
    """

    deprecated: ClassVar[str] = "use token-producer with estimate: {}"
