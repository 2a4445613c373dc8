"""What is said in the demo: conversations that grow, and how many requests a second this machine can take.

Place:   gives bench.load its calls; the same seed gives the same bodies in the same order.
Ignores: which server answers, and what.
Rule:    a conversation is known by its name in every key and request id: ``c07.3`` is its third turn. Two
         of its turns are never close together, so that the earlier one has usually been answered.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence

from bench.load import Call, Options, Result, Target, chat_call, closed_loop, summarize
from bench.rig.model import Size, text

SIZE = Size(layers=4, dim=256, feed_forward=768, heads=4)
"""7 MB; on one core some 0.2-0.3 ms per prompt token and 1.5 ms per generated one, so that a long history
costs a visible fraction of a second and a turn that finds it cached a few hundredths."""
SLOTS = 4
"""Conversations that one server can hold ready; three servers have room for all of them once."""
CONTEXT = 2048

CONVERSATIONS = (6, 12)
"""The fewest and the most at once."""
TURNS, FEW_TURNS = 8, 4
"""Of long and of short conversations. Few turns make many new ones, which may go anywhere."""
OPENING_TOKENS = 400
"""A conversation's first message: the document it is about."""
TURN_TOKENS = 40
ANSWER_TOKENS = 8

CALIBRATION_SECONDS = 1.0
UTILISATION = 0.5
"""Of what the three servers can do together when every turn finds its prefix: room for new
conversations, for the gateway, the picker and this program, and for bad luck."""
RATES = (2.0, 40.0)
"""The lowest and the highest rate [requests/s]: below, nothing is seen; above, nobody can follow."""


class _Conversation:
    def __init__(self, name: str, turns: int, chance: random.Random) -> None:
        self.name = name
        self.turns_left = turns
        self._chance = chance
        self._turn = 0
        self._messages: list[dict[str, str]] = []

    def next_turn(self) -> Call:
        """The whole history and a new question; the answers in the history are made up."""
        self._turn += 1
        self.turns_left -= 1
        tokens = OPENING_TOKENS if self._turn == 1 else TURN_TOKENS
        self._messages.append({"role": "user", "content": text(tokens, self._chance)})
        key = f"{self.name}.{self._turn}"
        headers = (("x-request-id", key),)
        call = chat_call(self._messages, stream=True, max_tokens=ANSWER_TOKENS, key=key, headers=headers)
        self._messages.append({"role": "assistant", "content": text(ANSWER_TOKENS, self._chance)})
        return call


def at_once(requests: float) -> int:
    """How many conversations to hold at once, so that they get through their turns in so many requests."""
    fewest, most = CONVERSATIONS
    return min(max(round(requests / TURNS), fewest), most)


def conversations(seed: int, at_once: int, *, turns: int = TURNS, prefix: str = "c") -> Iterator[Call]:
    """The turns of ``at_once`` conversations, without end: where one finishes, a new one begins.

    The first ones are of different lengths, so that later all ages are there at any time.
    """
    chance = random.Random(seed)
    waiting: deque[_Conversation] = deque()
    begun = 0
    while True:
        while len(waiting) < at_once:
            its_turns = turns if begun >= at_once else 1 + begun * turns // at_once
            waiting.append(_Conversation(f"{prefix}{begun:02}", its_turns, chance))
            begun += 1
        # One of those that have been silent longest.
        position = chance.randrange((at_once + 1) // 2)
        conversation = waiting[position]
        del waiting[position]
        yield conversation.next_turn()
        if conversation.turns_left:
            waiting.append(conversation)


def conversation_of(key: str) -> tuple[str, int]:
    """A key's conversation and turn."""
    name, _, turn = key.partition(".")
    return name, int(turn)


async def calibrate(servers: Sequence[Target]) -> float:
    """How many requests a second to send: a fixed part of what the servers answer when kept busy.

    Every server is busy with conversations of its own at the same time: they share the machine's cores.
    """
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(_keep_busy(server, number), name=f"calibrate {server.port}")
            for number, server in enumerate(servers)
        ]
    summaries = [
        summarize(r.samples, started=r.started, window_seconds=r.window_seconds)
        for r in (run.result() for run in runs)
    ]
    answered = sum(summary.requests_per_second for summary in summaries)
    lowest, highest = RATES
    return min(max(answered * UTILISATION, lowest), highest)


async def _keep_busy(server: Target, number: int) -> Result:
    calls = conversations(-1 - number, SLOTS, turns=1_000, prefix=f"calibration{number}-")
    options = Options(timeout_seconds=20.0)
    # Their openings first: what is measured is turns that find their prefix.
    await closed_loop(server, calls, concurrency=1, requests=2 * SLOTS, options=options)
    return await closed_loop(server, calls, concurrency=1, seconds=CALIBRATION_SECONDS, options=options)
