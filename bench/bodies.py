"""Request bodies of a given size, as prompts of many clients look to a prefix index.

Place:   what bench.overhead and bench.profile send.
Ignores: where it goes, and how fast.
Rule:    exactly the size asked for, no two alike, the same bytes from the same seed.
"""

import itertools
import json
import random
from collections.abc import Iterator

from bench.load import CHAT_PATH, Call, text

GROUPS, ENDINGS = 16, 4


def bodies(size: int, *, streaming: bool, rng: random.Random) -> Iterator[Call]:
    """Chat completions of exactly ``size`` bytes, without end, no two alike.

    A quarter is a system prompt common to all, half is a history that one in 16 has, the last quarter
    is the request's own and begins with its number: so a prefix index finds, extends and evicts.
    """
    system = _prose(rng, size // 4)
    pairs = []
    for _ in range(GROUPS):
        history = _prose(rng, size // 2)
        pairs += [_template(system, history, size, streaming, rng) for _ in range(ENDINGS)]
    rng.shuffle(pairs)
    for number, (head, tail) in enumerate(itertools.cycle(pairs)):
        yield Call((head, b"%012d" % number, tail), path=CHAT_PATH)


def _template(
    system: bytes, history: bytes, size: int, streaming: bool, rng: random.Random
) -> tuple[bytes, bytes]:
    """A body before and after its number."""
    head = (
        b'{"model":"bench","stream":%s,"max_tokens":64,"messages":[{"role":"system","content":"%s"},'
        b'{"role":"user","content":"%s"},{"role":"assistant","content":"Yes."},{"role":"user","content":"'
    ) % (b"true" if streaming else b"false", system, history)
    end = b'"}]}'
    own = size - len(head) - 12 - len(end)
    return head, b" " + _prose(rng, own - 1).ljust(own - 1) + end


def _prose(rng: random.Random, size: int) -> bytes:
    """Text inside a JSON string: whole words, at most ``size`` bytes and little less."""
    encoded = json.dumps(text(rng, size // 3), ensure_ascii=False)[1:-1].encode()
    return encoded[: encoded.rindex(b" ", 0, size + 1)]
