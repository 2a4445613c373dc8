"""``single-profile-handler``: every request goes through the one scheduling profile."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class SingleProfileHandler:
    """Says that there is exactly one scheduling profile; without parameters.

    Source: upstream ``single-profile-handler``.
    """

    kind: ClassVar[Kind] = Kind.PROFILE_HANDLER
