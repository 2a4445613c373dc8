"""A value within an object that somebody wrote, with the place where it stands.

Rule:    nothing raises, whatever was written: what is not there, or is no object, list or text where one
         should be, is absent, and so is everything below it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """``field``: as in ``spec.rules[2].backendRefs``; empty: the object itself."""

    value: Any
    field: str = ""

    def __getitem__(self, key: str) -> "Node":
        below = self.value.get(key) if isinstance(self.value, Mapping) else None
        return Node(below, f"{self.field}.{key}".lstrip("."))

    def __iter__(self) -> Iterator["Node"]:
        """The items of a list."""
        if isinstance(self.value, list):
            for number, item in enumerate(self.value):
                yield Node(item, f"{self.field}[{number}]")

    def __len__(self) -> int:
        return len(self.value) if isinstance(self.value, list) else 0

    def entries(self) -> Iterator[tuple[str, "Node"]]:
        """The keys of an object, with their values."""
        if isinstance(self.value, Mapping):
            for key in self.value:
                if isinstance(key, str):
                    yield key, self[key]

    @property
    def is_there(self) -> bool:
        return self.value is not None

    @property
    def is_true(self) -> bool:
        return self.value is True

    @property
    def text(self) -> str:
        """Empty: it is none."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> float | None:
        is_one = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        return self.value if is_one else None

    def texts(self) -> Iterator["Node"]:
        """Every text in it, however deep."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if isinstance(node.value, str):
                yield node
            below = [*node, *(value for _, value in node.entries())]
            waiting += reversed(below)
