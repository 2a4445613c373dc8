"""``session-id-producer``: which session a request belongs to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionIdProducer:
    """Find the identifier of a request's session, in a header or in a cookie.

    In:     the request's headers.
    Out:    the identifier in ``cycle.facts``, for ``session-affinity-scorer`` and
            ``session-affinity-filter``, which name it as the attribute ``SessionIDDataKey``; nothing where
            the request has none.
    Source: upstream ``session-id-producer``.
    """

    header_name: str = ""
    """The request header that is the identifier."""
    cookie_name: str = ""
    """The cookie that is the identifier. Exactly one of the two has to be given."""

    def __post_init__(self) -> None:
        if bool(self.header_name) == bool(self.cookie_name):
            raise ValueError("give either headerName or cookieName")
        for name, value in (("headerName", self.header_name), ("cookieName", self.cookie_name)):
            if value and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
                raise ValueError(f'{name}: must be a name such as x-session-id, got "{value}"')

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None:
        headers = cycle.request.headers
        if self.header_name:
            found = headers.get(self.header_name.lower(), "")
        else:
            found = self._cookie(headers.get("cookie", ""))
        if found:
            cycle.facts[name] = found

    def _cookie(self, cookies: str) -> str:
        """The value; of several cookies with this name the first, as servers do."""
        for pair in cookies.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and name == self.cookie_name:
                return value.strip().strip('"')
        return ""

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None:
        """Nothing to be remembered."""
