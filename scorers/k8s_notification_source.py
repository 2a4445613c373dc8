"""``k8s-notification-source``: watching Kubernetes objects, which happens anyway."""

from dataclasses import dataclass, field
from typing import ClassVar

from epp.core.scoring import Kind

WATCHED = "what is needed of Kubernetes is always watched, and nothing else"


@dataclass(frozen=True, slots=True, kw_only=True)
class K8sNotificationSource:
    """Accepted and without effect: what is needed of Kubernetes is always watched.

    Lacks:  extractors of one's own.
    Source: upstream ``k8s-notification-source``, which hands changes of one kind of object to extractors.
    """

    group: str = field(default="", metadata={"without_effect": WATCHED})
    version: str = field(default="", metadata={"without_effect": WATCHED})
    kind_name: str = field(default="", metadata={"yaml": "kind", "without_effect": WATCHED})

    kind: ClassVar[Kind] = Kind.NOTIFICATION
