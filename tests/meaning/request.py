"""What is asked, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """``headers``: names in lower case, as a gateway has them."""

    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """``backends``: who may serve it, by the names of their Services or their hosts. Nobody: it is
    refused."""

    backends: frozenset[str] = frozenset()
    because: str = ""

    @property
    def is_refused(self) -> bool:
        return not self.backends

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self.backends == other.backends

    def __hash__(self) -> int:
        return hash(self.backends)
