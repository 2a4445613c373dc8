"""``header-profile-handler``: a request header says which scheduling profile a request goes through."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from epp.core.scoring import Cycle, Kind, Route, bad_request


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderProfileHandler:
    """Choose one of several scheduling profiles by a request header.

    In:     the request's header ``headerName``.
    Out:    the profile of that name; ``defaultProfile`` where the header is missing or blank. One profile
            alone is used whatever the header says.
    Better: an unknown profile is 400, not 429.
    Source: upstream ``header-profile-handler``.
    """

    header_name: str = "EPP-Profile"
    """The request header."""
    default_profile: str = "decode"
    """The profile of requests without the header."""
    profiles: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    kind: ClassVar[Kind] = Kind.PROFILE_HANDLER
    is_experimental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.header_name):
            raise ValueError(
                f'headerName: must be a header name such as EPP-Profile, got "{self.header_name}"'
            )

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> "HeaderProfileHandler":
        """This handler, with the names of the profiles there are."""
        if len(profiles) > 1 and self.default_profile not in profiles:
            raise ValueError(f'defaultProfile: there is no profile "{self.default_profile}"')
        found = replace(self)
        object.__setattr__(found, "profiles", tuple(profiles))
        return found

    def next_profile(self, cycle: Cycle) -> str | None:
        return None if cycle.picks else self._chosen(cycle)

    def route(self, cycle: Cycle) -> Route:
        return Route(next(iter(cycle.picks)))

    def _chosen(self, cycle: Cycle) -> str:
        if len(self.profiles) == 1:
            return self.profiles[0]
        wanted = cycle.request.headers.get(self.header_name.lower(), "").strip()
        if wanted and wanted not in self.profiles:
            known = ", ".join(self.profiles)
            raise bad_request(f'{self.header_name}: there is no profile "{wanted[:40]}", known are {known}')
        return wanted or self.default_profile
