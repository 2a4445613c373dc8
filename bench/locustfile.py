"""Users for locust with the workloads of this bench: streamed conversations, the first token as a metric.

    pip install locust 'fleet-epp[bench]'
    locust -f bench/locustfile.py --host http://127.0.0.1:8000 --users 20 [--workload small] [--model NAME]

Place:   for those who use locust already. `epp bench run` has the open loop, which locust has not: here a
         slow server slows its users down, and is asked less.
Ignores: rates: locust says how many users there are, and each has one session after the other.
Rule:    the workload's sessions, words and pauses are those of `epp bench run`. locust sees three entries
         for each turn: its stream ("turn 1", all later ones "later turns"), the first token ("TTFT") and the
         pace of the others ("between tokens"). A stream that stops in the middle has failed.
"""

import itertools
import random
import secrets
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from locust import HttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser

from bench.run.answers import Answer
from bench.workloads.generate import OWN, asked
from bench.workloads.sessions import Piece, Session, Turn
from bench.workloads.spec import find
from bench.workloads.text import words

CHAT_PATH = "/v1/chat/completions"
SEED_STEP = 1_000_003
"""Between two users' seeds."""
_users = itertools.count()
_run = secrets.token_hex(4)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # where there is no locust
def _options(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--workload", default="interactive-chat", help="of the catalogue, or a YAML file")
    parser.add_argument("--model", default="", help="else the first that the server lists")
    parser.add_argument("--seed", type=int, default=1, help="of lengths and pauses")
    parser.add_argument("--api-key-file", default="", help="sent as a bearer token")


def _headers(api_key_file: str) -> dict[str, str]:
    if not api_key_file:
        return {}
    return {"authorization": f"Bearer {Path(api_key_file).read_text(encoding='ascii').strip()}"}


class Talker(HttpUser):
    """Has one session after the other."""

    def on_start(self) -> None:
        options = self._options
        self._number = next(_users)
        self._sessions = self._all_sessions()
        self._headers = _headers(options.api_key_file)
        self._model = options.model or self._first_model()

    @property
    def _options(self) -> Any:
        environment: Environment = self.environment
        return environment.parsed_options

    def _all_sessions(self) -> Iterator[Session]:
        """Each user's own, without end; a trace has its requests one after the other."""
        workload = find(self._options.workload)
        if workload.sessions is None:
            raise StopUser("a trace has times, and locust has none: use epp bench run")
        chance = random.Random(self._options.seed * SEED_STEP + self._number)
        return asked(workload, itertools.repeat(0.0), chance)

    def _first_model(self) -> str:
        page = self.client.get("/v1/models", headers=self._headers).json()
        return str(page["data"][0]["id"])

    def _salt(self, piece: Piece) -> str:
        """What sessions have in common all users have; nothing is as it was in an earlier run."""
        return f"{_run} " if piece.name < OWN else f"{_run} {self._number} "

    @task
    def session(self) -> None:
        session = next(self._sessions)
        messages: list[dict[str, str]] = []
        for number, turn in enumerate(session.turns):
            if number:
                time.sleep(turn.think)  # gevent's
            text = "".join(words(piece, self._salt(piece)) for piece in turn.pieces)
            messages.append({"role": "user", "content": text})
            answer = self._ask(messages, turn, "turn 1" if number == 0 else "later turns")
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer.text})

    def _ask(self, messages: list[dict[str, str]], turn: Turn, name: str) -> Answer | None:
        """None: it failed, which locust has been told."""
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": turn.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, answer = time.perf_counter(), Answer()
        with self.client.post(
            CHAT_PATH, json=body, headers=self._headers, stream=True, name=name, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"http {response.status_code}")
                return None
            tail = b""
            for piece in response.iter_content(None):
                answer.feed(piece)
                tail = (tail + piece)[-64:]
            if b"[DONE]" not in tail:
                response.failure("the stream stopped in the middle")
                return None
            # locust measures until the headers of a streamed response; the whole of it is meant.
            response.request_meta["response_time"] = (time.perf_counter() - began) * 1e3
            response.request_meta["response_length"] = answer.tokens
            response.success()
        self._tell(answer, began)
        return answer

    def _tell(self, answer: Answer, began: float) -> None:
        if not answer.times:
            return
        first, last = answer.times[0], answer.times[-1]
        self._fire("TTFT", first - began, answer)
        if answer.tokens > 1:
            self._fire("between tokens", (last - first) / (answer.tokens - 1), answer)

    def _fire(self, name: str, seconds: float, answer: Answer) -> None:
        self.environment.events.request.fire(
            request_type="LLM",
            name=name,
            response_time=seconds * 1e3,
            response_length=answer.tokens,
            exception=None,
            context={},
        )
