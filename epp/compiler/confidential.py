"""What people write where everybody can read it, and must not be repeated: logins and keys.

Place:   for inputs/ and targets/, whose findings end in logs, Events and statuses.
"""

import re

_SHORTEST_KEY = 30


def shown(url: str) -> str:
    """Where a URL leads, for a message: keys stand in a query, passwords before the host, whatever else is
    wrong with it."""
    return "…" if "@" in url else re.split(r"[?#]", url, maxsplit=1)[0]


def has_login(url: str) -> bool:
    """Whether it has a user or a password."""
    return "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]


def is_key(name: str) -> bool:
    """Whether the name of a Secret looks like what should be in it: ``sk-proj-…``."""
    return name.lower().startswith("sk-") and len(name) > _SHORTEST_KEY
