"""The fuzzer itself: libFuzzer through atheris, guided by the coverage of what it runs.

Started by ``bench.fuzz`` with libFuzzer's own arguments; ends as libFuzzer does.
"""

import logging
import random
import sys

import atheris

with atheris.instrument_imports(
    include=["epp.runtime.fast", "epp.runtime.ext_proc", "epp.core.stream", "epp.wire", "hpack"]
):
    from bench.fuzz.moves import parse, text
    from bench.fuzz.mutate import Mutator
    from bench.fuzz.room import Room


def main() -> None:
    """Does not return."""
    logging.disable(logging.WARNING)
    room = Room()

    def play(data: bytes) -> None:
        room.play(parse(data))

    def mutator(seed: int) -> Mutator:
        return Mutator(random.Random(seed), lambda some: bytes(atheris.Mutate(some, len(some) + 20)))

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        return text(mutator(seed).mutate(parse(data)))[:largest]

    def cross(one: bytes, other: bytes, largest: int, seed: int) -> bytes:
        return text(mutator(seed).cross(parse(one), parse(other)))[:largest]

    atheris.Setup(sys.argv, play, custom_mutator=mutate, custom_crossover=cross)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
