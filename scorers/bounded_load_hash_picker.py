"""``bounded-load-hash-picker``: consistent hashing of the prompt's beginning, with bounded loads."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from epp.core.scoring import Cycle, Endpoint


@dataclass(slots=True, kw_only=True)
class BoundedLoadHashPicker:
    """Pick the first endpoint on the ring, from the prompt's place on, that is not too busy.

    In:     endpoints, at least one; the model and the first ``prefixCharLength`` bytes of the prompt;
            ``requests_in_flight``; totals do not matter.
    Out:    one endpoint. Too busy: with this request it would have more than ``meanLoadFactor`` percent of
            the mean of requests in flight, this one included.
    Source: Mirrokni, Thorup, Zadimoghaddam, Consistent Hashing with Bounded Loads (SODA 2018); KubeAI's
            defaults.
    """

    mean_load_factor: int = 125
    """Percent of the mean load."""
    prefix_char_length: int = 100
    """Bytes of the prompt that are hashed."""
    replication: int = 256
    """Places of each endpoint on the ring."""
    among: tuple[Endpoint, ...] = field(init=False, repr=False, compare=False, default=())
    ring: list[tuple[int, Endpoint]] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.mean_load_factor < 100:
            raise ValueError(f"meanLoadFactor: must be at least 100, got {self.mean_load_factor}")
        if self.prefix_char_length < 1:
            raise ValueError(f"prefixCharLength: must be at least 1, got {self.prefix_char_length}")
        if not 1 <= self.replication <= 4096:
            raise ValueError(f"replication: must be from 1 to 4096, got {self.replication}")

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        self._lay_out(tuple(endpoints))
        request = cycle.request
        key = request.target_model.encode() + b"\0" + request.payload.prompt[: self.prefix_char_length]
        mean = (sum(each.requests_in_flight for each in endpoints) + 1) / len(endpoints)
        most = math.ceil(mean * self.mean_load_factor / 100)
        start = bisect_left(self.ring, xxhash.xxh3_64_intdigest(key), key=lambda place: place[0])
        places = len(self.ring)
        around = (self.ring[(start + step) % places][1] for step in range(places))
        return (next(each for each in around if each.requests_in_flight < most),)

    def _lay_out(self, endpoints: tuple[Endpoint, ...]) -> None:
        if endpoints == self.among:
            return
        self.among = endpoints
        self.ring = sorted(
            (
                (xxhash.xxh3_64_intdigest(f"{each.spec.namespace}/{each.name}/{number}".encode()), each)
                for each in endpoints
                for number in range(self.replication)
            ),
            key=lambda place: place[0],
        )
