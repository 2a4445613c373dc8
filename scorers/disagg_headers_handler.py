"""``disagg-headers-handler``: the headers of several stages, which their handler sets itself."""

from dataclasses import dataclass, field
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggHeadersHandler:
    """Accepted and without effect: ``disagg-profile-handler`` sets the headers itself.

    Source: upstream ``disagg-headers-handler``, deprecated in v0.9.
    """

    prefill_profile: str = field(
        default="", metadata={"deprecated": "write it in profiles of disagg-profile-handler"}
    )
    encode_profile: str = field(
        default="", metadata={"deprecated": "write it in profiles of disagg-profile-handler"}
    )

    kind: ClassVar[Kind] = Kind.NOTHING
    deprecated: ClassVar[str] = "disagg-profile-handler sets the headers itself, leave it out"
