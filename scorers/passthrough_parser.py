"""``passthrough-parser``: any other request."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class PassthroughParser:
    """Lets every path in, without payload signals; without parameters.

    Source: upstream ``passthrough-parser``.
    """

    kind: ClassVar[Kind] = Kind.PARSER
