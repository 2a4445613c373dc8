"""How many bytes of request bodies the whole process may hold at once.

Place:   one for the process, shared by every stream; each stream gives back what it took.
"""


class Budget:
    """A counted allowance of ``limit`` bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, count: int) -> bool:
        """Take ``count`` bytes; False, and nothing taken, when they are not there."""
        if self.used + count > self.limit:
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        self.used -= count
