"""What was made under our name for another gateway: another controller's, or left by a changed --target.

Place:   told by loop.py.
Rule:    which of the two it is nobody can see, so that nothing of it is deleted. Only kinds that both
         gateways have are followed; ``epp plan`` looks at all of them.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from epp.compiler.findings import Finding, Origin, warning
from epp.compiler.marks import INVENTORY, TARGET, Inventory
from epp.controller.difference import Key, title


def told(left: Iterable[tuple[str, Key]], inventory: Inventory) -> Iterator[Finding]:
    """``left``: with the gateway of each; of every gateway one warning."""
    for gateway, those in groupby(sorted(left), key=lambda one: one[0]):
        keys = [key for _, key in those]
        others = f", and so {_plural(len(keys) - 1)}" if len(keys) > 1 else ""
        yield warning(
            "ObjectOfOtherTarget",
            Origin(*keys[0]),
            f"{title(keys[0])} was made for {gateway}{others}: they stay and go on acting",
            f"give the controller for {gateway} another --inventory; if there is none any more, delete what"
            f" has the labels {INVENTORY}={inventory.name} and {TARGET}={gateway}, of all kinds, or take the"
            f" label {TARGET} away from what this one is to have",
        )


def _plural(number: int) -> str:
    return "was 1 more object" if number == 1 else f"were {number} more objects"
