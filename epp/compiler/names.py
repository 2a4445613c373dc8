"""Names of what is made: always the same for the same thing, never one for two things.

Rule:    a name of one part is that part; of several, the parts with a hash of them, so that a, b-c and a-b, c
         differ and what is too long can be cut.
"""

import hashlib
import re

LONGEST = 63
"""Of a label of DNS, which names of Services are and labels' values."""
_HASH = 6


def name_of(*parts: str) -> str:
    """A DNS label that begins with a letter, as a Service's name must, for ``parts``."""
    plain = [re.sub(r"[^a-z0-9-]+", "-", part.lower()).strip("-") for part in parts]
    whole = "-".join(part for part in plain if part)
    if not whole[:1].isalpha():
        whole = f"m-{whole}"
    if (whole,) == parts and len(whole) <= LONGEST:
        return whole
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH]
    return f"{whole[: LONGEST - _HASH - 1].strip('-')}-{digest}"
