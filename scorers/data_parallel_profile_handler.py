"""``data-parallel-profile-handler``: one port of a server for all, which hands on to the rank picked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from epp.core.scoring import Cycle, Kind, Route, with_port

HEADER = "x-data-parallel-host-port"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallelProfileHandler:
    """Send every request to one port of the picked endpoint's address, and say in a header who was picked.

    In:     the pick of the one scheduling profile there is.
    Out:    the destination ``ip:primaryPort``; the request header ``x-data-parallel-host-port`` with the
            picked endpoint's own ``ip:port``, whatever the client sent there.
    Better: what clients send in its header never gets through.
    Source: upstream ``data-parallel-profile-handler``. Gateways that take each rank's own port need none.
    """

    primary_port: int = 8000
    """The port that requests are sent to, 1 to 65535."""
    profile: str = field(default="", init=False, repr=False, compare=False)

    kind: ClassVar[Kind] = Kind.PROFILE_HANDLER

    def __post_init__(self) -> None:
        if not 1 <= self.primary_port <= 65535:
            raise ValueError(f"primaryPort: must be from 1 to 65535, got {self.primary_port}")

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> "DataParallelProfileHandler":
        """This handler, with the name of the profile."""
        if len(profiles) > 1:
            raise ValueError(f"takes one scheduling profile, there are {len(profiles)}")
        found = replace(self)
        object.__setattr__(found, "profile", next(iter(profiles)))
        return found

    def next_profile(self, cycle: Cycle) -> str | None:
        return None if cycle.picks else self.profile

    def route(self, cycle: Cycle) -> Route:
        picked = cycle.picks[self.profile]
        if not picked:
            return Route(self.profile)
        headers = {HEADER: picked[0].address}
        addresses = [with_port(endpoint, self.primary_port) for endpoint in picked]
        return Route(self.profile, headers=headers, destinations=addresses)
