"""``models-data-extractor``: which models an endpoint has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class ModelsDataExtractor:
    """Find out which models and adapters an endpoint lists; without parameters.

    In:     the list that a ``models-data-source`` reads.
    Out:    ``endpoint.models`` for plugins of one's own, and on ``/debug/endpoints``: each ``id``, and
            for plugins its ``parent``, which an adapter has. Unknown until the first answer, and from the
            moment that the server takes no connections; a failed reading in between changes nothing. No type
            that comes with the picker chooses by it, as upstream.
    Source: upstream ``models-data-extractor``.
    """

    kind: ClassVar[Kind] = Kind.SIDE_EXTRACTOR
    figures: ClassVar[Sequence[str]] = ()
