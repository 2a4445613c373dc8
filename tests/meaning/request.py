"""What is asked, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """``model``: empty: the body names none. ``headers``: names in lower case, as a gateway has them."""

    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """``backends``: who may serve it, by the names of their Services or their hosts, in the order in which
    they are asked. Nobody: it is refused. ``is_ordered``: no picker chooses among them.
    """

    backends: tuple[str, ...] = ()
    because: str = ""
    is_ordered: bool = True

    def is_like(self, other: "Answer") -> bool:
        """The same servers, in the same order where both have one."""
        if self.is_ordered and other.is_ordered:
            return self.backends == other.backends
        return set(self.backends) == set(other.backends)
