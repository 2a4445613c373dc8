"""Change one value of a JSON object and leave every other byte alone.

Place:   used where the model is rewritten, after epp.core.apis has understood the body.
Ignores: what the value means. The body is known to be well-formed JSON.
Rule:    offsets never move while looking; where a key occurs twice the last one counts, as in the decoder.

No byte is looked at in Python: escapes are blanked at equal length, so that every quote that is left
opens or closes a string; then whatever lies between an even number of quotes is structure, and the
depth of a place is a count of brackets before it.
"""

import functools
import re

import msgspec

_SHORT_ESCAPES = {"/": rb"\\/", "\b": rb"\\b", "\f": rb"\\f", "\n": rb"\\n", "\r": rb"\\r", "\t": rb"\\t"}
_SPACE = rb"[ \t\n\r]*"


def replace_string(body: bytes, key: str, value: str) -> bytes:
    """``body`` with the string at the top-level ``key`` replaced by ``value``.

    KeyError: the key is not there. ValueError: the body is no object, or the value is no string.
    """
    if not body.lstrip(b" \t\n\r").startswith(b"{"):
        raise ValueError("the body is not a JSON object")
    masked = body
    if b"\\" in body:  # a search for one byte is a hundred times cheaper than the two replacements
        masked = body.replace(rb"\\", b"__").replace(rb"\"", b"__")
    start = _last_value(body, masked, key)
    if start is None:
        raise KeyError(key)
    end = masked.find(b'"', start + 1)
    if masked[start : start + 1] != b'"' or end < 0:
        raise ValueError(f"the value of {key!r} is not a string")
    return b"".join((body[:start], msgspec.json.encode(value), body[end + 1 :]))


def _last_value(body: bytes, masked: bytes, key: str) -> int | None:
    """Where the value of the last top-level ``key`` begins."""
    found: int | None = None
    done = depth = 0
    in_string = False
    for match in _key_pattern(key).finditer(body):
        place = match.start()
        outside = masked[done:place].split(b'"')
        structure = b"".join(outside[1::2] if in_string else outside[::2])
        depth += structure.count(b"{") + structure.count(b"[") - structure.count(b"}") - structure.count(b"]")
        in_string ^= len(outside) % 2 == 0
        done = place
        if depth == 1 and not in_string:
            found = match.end()
    return found


@functools.lru_cache(maxsize=64)
def _key_pattern(key: str) -> re.Pattern[bytes]:
    """``"key" :`` in all its spellings; also matches inside strings, which the caller sorts out."""
    return re.compile(b'"' + b"".join(map(_spellings, key)) + b'"' + _SPACE + b":" + _SPACE)


def _spellings(character: str) -> bytes:
    """A pattern for one character of a string: itself or one of its escapes."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    escaped = b"".join(
        rb"\\u"
        + b"".join(b"[%c%c]" % (d, d ^ 32) if d > 57 else b"%c" % d for d in units[i : i + 4].encode())
        for i in range(0, len(units), 4)
    )
    options = [escaped, *([_SHORT_ESCAPES[character]] if character in _SHORT_ESCAPES else [])]
    if character in '"\\':
        options.append(re.escape(f"\\{character}".encode()))
    elif character >= " ":
        options.append(re.escape(character.encode("utf-8", "surrogatepass")))
    return b"(?:" + b"|".join(options) + b")"
