"""The user of bench/locustfile.py with a stub in locust's place; tests/system has the real one."""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest

from tests.bench.run.chat import DONE, event, usage

Fired = list[tuple[str, float]]


class Response:
    """As locust's with ``catch_response``."""

    def __init__(self, status: int, pieces: list[bytes]) -> None:
        self.status_code, self._pieces = status, pieces
        self.request_meta: dict[str, Any] = {}
        self.said = ""

    def iter_content(self, size: int | None) -> Iterator[bytes]:
        return iter(self._pieces)

    def failure(self, why: str) -> None:
        self.said = why

    def success(self) -> None:
        self.said = "success"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Client:
    def __init__(self, *responses: Response) -> None:
        self._responses = iter(responses)
        self.posted: list[dict[str, Any]] = []

    def get(self, path: str, headers: dict[str, str]) -> Any:
        assert path == "/v1/models"
        return SimpleNamespace(json=lambda: {"data": [{"id": "listed"}]})

    def post(self, path: str, *, json: dict[str, Any], name: str, **_: Any) -> Response:
        # The list of messages grows on.
        self.posted.append({**json, "messages": list(json["messages"]), "path": path, "name": name})
        return next(self._responses)


class Stop(Exception):
    """locust's StopUser."""


@pytest.fixture
def locustfile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    stub = ModuleType("locust")

    def listener(add: Callable[..., None]) -> Callable[..., None]:
        return add

    stub.HttpUser = object  # type: ignore[attr-defined]
    stub.task = lambda work: work  # type: ignore[attr-defined]
    stub.events = SimpleNamespace(init_command_line_parser=SimpleNamespace(add_listener=listener))  # type: ignore[attr-defined]
    env, exception = ModuleType("locust.env"), ModuleType("locust.exception")
    env.Environment, exception.StopUser = object, Stop  # type: ignore[attr-defined]
    for module in (stub, env, exception):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "bench.locustfile", raising=False)
    found = importlib.import_module("bench.locustfile")
    monkeypatch.setattr(found.time, "sleep", lambda seconds: None)
    return found


def user(locustfile: ModuleType, client: Client, fired: Fired, workload: str = "small") -> Any:
    parser = argparse.ArgumentParser()
    locustfile._options(parser)
    made = locustfile.Talker()
    made.client = client
    request = SimpleNamespace(
        fire=lambda **said: fired.append((f"{said['request_type']} {said['name']}", said["response_time"]))
    )
    made.environment = SimpleNamespace(
        parsed_options=parser.parse_args(["--workload", workload]), events=SimpleNamespace(request=request)
    )
    made.on_start()
    return made


def answers() -> list[Response]:
    return [Response(200, [event("hel"), event("lo"), usage(9, 3, 0) + DONE]) for _ in range(20)]


def test_a_user_has_conversations_and_tells_locust_of_first_tokens(locustfile: ModuleType) -> None:
    fired: Fired = []
    responses = answers()
    client = Client(*responses)
    user(locustfile, client, fired).session()
    turns = len(client.posted)
    assert turns >= 2 and [one["name"] for one in client.posted] == ["turn 1"] + ["later turns"] * (turns - 1)
    second = client.posted[1]["messages"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[0] == client.posted[0]["messages"][0] and second[1]["content"] == "hello"
    assert (client.posted[0]["model"], client.posted[0]["stream"]) == ("listed", True)
    assert [name for name, _ in fired] == ["LLM TTFT", "LLM between tokens"] * turns
    first = responses[0]
    assert (first.said, first.request_meta["response_length"]) == ("success", 3)
    assert 0 <= fired[0][1] <= first.request_meta["response_time"]


@pytest.mark.parametrize(
    "response, says",
    [
        (Response(200, [event("hel")]), "the stream stopped in the middle"),
        (Response(503, []), "http 503"),
    ],
)
def test_what_fails_is_told_and_the_session_given_up(
    locustfile: ModuleType, response: Response, says: str
) -> None:
    fired: Fired = []
    client = Client(response)
    user(locustfile, client, fired).session()
    assert (len(client.posted), response.said, fired) == (1, says, [])


def test_users_share_what_sessions_have_in_common_and_nothing_else(locustfile: ModuleType) -> None:
    openings, contents = [], set()
    for _ in range(2):
        client = Client(*answers(), *answers(), *answers())
        talker = user(locustfile, client, [])
        for _ in range(4):  # each of four shared texts once
            talker.session()
        texts = [one["messages"][0]["content"] for one in client.posted if one["name"] == "turn 1"]
        openings.append({" ".join(text.split()[:60]) for text in texts})
        contents |= set(texts)
    assert len(openings[0]) == 4 and openings[0] == openings[1]
    assert len(contents) == 8


def test_a_trace_is_refused(locustfile: ModuleType) -> None:
    made = user(locustfile, Client(), [], "small")
    made.environment.parsed_options.workload = "mooncake-conversation"
    with pytest.raises(Stop, match="use epp bench run"):
        made._all_sessions()
