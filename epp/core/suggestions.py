"""Did you mean …? for whoever wrote a name that there is not.

Place:   used by epp.config, and by plugins through epp.core.scoring.
Rule:    what is deprecated is suggested to whoever misspelt it, and never to whoever meant something else.
"""

from collections.abc import Iterable
from difflib import get_close_matches

ALIKE, A_SLIP = 0.6, 0.85
"""How much of two names has to agree. ``metadata`` and ``data``: 0.67; ``blockSizeToken`` and
``blockSizeTokens``: 0.97."""


def suggestion(name: str, known: Iterable[str], former: Iterable[str] = ()) -> str:
    """``, did you mean "x"?`` or nothing. ``former``: what is deprecated."""
    known, former = list(known), list(former)
    every = [*known, *former]
    found = (
        [other for other in every if other.lower() == name.lower()]
        or get_close_matches(name, every, n=1, cutoff=A_SLIP)
        or get_close_matches(name, known, n=1, cutoff=ALIKE)
    )
    return f', did you mean "{found[0]}"?' if found else ""
