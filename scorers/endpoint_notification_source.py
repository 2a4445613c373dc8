"""``endpoint-notification-source``: following the list of endpoints, which happens anyway."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True)
class EndpointNotificationSource:
    """Accepted and without effect: endpoints that come and go are always followed; without parameters.

    Lacks:  extractors of one's own.
    Source: upstream ``endpoint-notification-source``, which hands such changes to extractors.
    """

    kind: ClassVar[Kind] = Kind.NOTIFICATION
