"""``round-robin-picker``: one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from epp.core.scoring import Cycle, Endpoint


@dataclass(slots=True, kw_only=True)
class RoundRobinPicker:
    """Pick each endpoint in turn.

    In:     endpoints, at least one; their totals do not matter.
    Out:    one endpoint: the next in the order of their names after the one picked before, or the first.
            So it goes on where it was when others come and go.
    Source: round robin, as every proxy has it.
    """

    last: tuple[str, str] = field(init=False, repr=False, compare=False, default=("", ""))

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        after = [each for each in endpoints if _name(each) > self.last]
        chosen = min(after or endpoints, key=_name)
        self.last = _name(chosen)
        return (chosen,)


def _name(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.spec.namespace, endpoint.name
