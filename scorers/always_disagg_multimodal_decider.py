"""``always-disagg-multimodal-decider``: another server encodes the images and sounds of a request."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Kind


@dataclass(frozen=True, slots=True)
class AlwaysDisaggMultimodalDecider:
    """Have other endpoints encode what is not text, for every request that holds some; without parameters.

    In:     the request: whether a message of it has an image, a sound, a video or a file.
    Out:    yes, if one has.
    Source: upstream ``always-disagg-multimodal-decider``.
    """

    kind: ClassVar[Kind] = Kind.DECIDER

    def disaggregates(self, cycle: Cycle, endpoint: Endpoint | None) -> bool:
        return cycle.request.has_media
