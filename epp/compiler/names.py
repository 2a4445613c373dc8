"""Names of what is made: always the same for the same thing, never one for two things.

Rule:    a name of one part is that part; of several, the parts with a hash of them, so that a, b-c and a-b, c
         differ and what is too long can be cut.
"""

import hashlib
import re
import string

LONGEST = 63
"""Of a label of DNS, which names of Services are and labels' values."""
_HASH = 6
_LETTERS = string.ascii_lowercase
_SIGNS = string.digits + string.ascii_lowercase


def name_of(*parts: str, longest: int = LONGEST) -> str:
    """A DNS label that begins with a letter, as a Service's name must, for ``parts``."""
    plain = [re.sub(r"[^a-z0-9-]+", "-", part.lower()).strip("-") for part in parts]
    whole = "-".join(part for part in plain if part)
    if not whole[:1].isalpha():
        whole = f"m-{whole}"
    if (whole,) == parts and len(whole) <= longest:
        return whole
    return f"{whole[: longest - _HASH - 1].strip('-')}-{_digest(parts)}"


def numbered(name: str, number: int) -> str:
    """One of several for the same thing, which by name stand in the order of their numbers.

    The first is ``name`` itself, where there is room for a number behind it.
    """
    plain, place = name_of(name), ordinal(number)
    room = LONGEST - _HASH - len(f"-{place}-")
    if plain == name and len(name) <= room:
        return name_of(name, place) if number else name
    return f"{plain[:room].strip('-')}-{place}-{_digest((name, str(number)))}"


def ordinal(number: int) -> str:
    """Two signs that stand in the order of the numbers: 00 to 99, a0 to az, to zz, which is the 1,036th."""
    if number < 100:
        return f"{number:02}"
    first, second = divmod(number - 100, len(_SIGNS))
    return _LETTERS[first] + _SIGNS[second] if first < len(_LETTERS) else str(number)


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH]
