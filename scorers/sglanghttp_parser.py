"""``sglanghttp-parser``: SGLang's own generate API."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class SglanghttpParser:
    """Understands ``generate``; without parameters. Not among the parsers that need no naming.

    In:     ``input_ids``, a list of tokens or a list of such lists; or, unlike upstream, ``text``.
    Better: prompts may be text as well.
    Source: upstream ``sglanghttp-parser``.
    """

    kind: ClassVar[Kind] = Kind.PARSER
