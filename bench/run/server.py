"""Who is asked: a URL, the headers that go with each request, the model; and whether it is there at all.

Place:   before anything is sent; bench.run.play sends.
Rule:    a server that cannot be asked is one line that says why, at once. A secret is in no report: headers
         are never written out, and a URL has none.
"""

import asyncio
import json
import re
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from bench.load import Call, Connection, LoadError, Options, Sample, Target, clock
from epp.config.decode import ConfigError

ANSWER_SECONDS = 10.0
"""For the list of models."""
_HOST = re.compile(r"[\w.:%-]{1,253}", re.ASCII)
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([^\r\n\0]*)")


class Unreachable(Exception):
    """Nobody can be asked there; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One URL."""

    url: str
    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    model: str = ""
    """Empty: the first that it lists."""

    @property
    def models_path(self) -> str:
        return self.target.path.removesuffix("/chat/completions") + "/models"


def server(
    url: str,
    *,
    flag: str = "--url",
    headers: tuple[tuple[str, str], ...] = (),
    model: str = "",
    tls: ssl.SSLContext | None = None,
) -> Server:
    """The chat completions of this URL, which may end before or after its ``/v1``. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as problem:
        raise ConfigError(f"{flag}: {url!r} is no URL: {problem}") from None
    if parts.scheme not in {"http", "https"} or not host or not _HOST.fullmatch(host):
        raise ConfigError(f"{flag}: {url!r} is no URL of a server: write for example http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{flag}: the URL of {host} has a user or a password: use --api-key-file or --header"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"{flag}: {url!r} has a query or a fragment: leave it out")
    is_tls = parts.scheme == "https"
    try:
        target = Target(
            host,
            port or (443 if is_tls else 80),
            _chat_path(parts.path, flag),
            tls=(tls or ssl.create_default_context()) if is_tls else None,
            anywhere=True,
        )
    except LoadError as problem:
        raise ConfigError(f"{flag}: {problem}") from None
    return Server(url=url, target=target, headers=headers, model=model)


def _chat_path(path: str, flag: str) -> str:
    path = path.rstrip("/")
    if path.endswith("/chat/completions"):
        return path
    if path.endswith("completions"):
        raise ConfigError(
            f"{flag}: {path} takes no conversations: end the URL at /v1 or at its chat/completions"
        )
    return f"{path}/chat/completions" if path.endswith("/v1") else f"{path}/v1/chat/completions"


def header(text: str) -> tuple[str, str]:
    """``name: value``. Raises ConfigError, which does not say the value."""
    found = _HEADER.fullmatch(text.strip())
    if found is None:
        name = text.partition(":")[0][:40]
        raise ConfigError(f"--header: {name!r} is not the beginning of a header: write 'name: value'")
    if found[1].lower() in {"content-length", "transfer-encoding", "host", "connection"}:
        raise ConfigError(f"--header: {found[1]} is set by the bench: leave it out")
    try:
        found[2].encode("ascii")
    except UnicodeEncodeError:
        raise ConfigError(f"--header: the value of {found[1]} is not ASCII") from None
    return found[1], found[2].strip()


async def greeted(asked: Server) -> Server:
    """With its model. Raises Unreachable."""
    connection = Connection(asked.target, Options())
    try:
        await connection.open()
        if asked.model:
            return asked
        async with asyncio.timeout(ANSWER_SECONDS):
            return replace(asked, model=await _first_model(asked, connection))
    except TimeoutError:
        raise Unreachable(f"{asked.url}: does not answer in time") from None
    except UnicodeError:  # a name that no resolver takes
        raise Unreachable(f"{asked.url}: the host is unknown") from None
    except OSError as problem:
        raise Unreachable(f"{asked.url}: {_reason(problem)}") from None
    finally:
        connection.close()


def _reason(problem: OSError) -> str:
    match problem:
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused ({problem.verify_message}): give --ca-file, or --insecure"
        case ssl.SSLError():
            return f"does not speak TLS ({problem.reason}): is it http?"
        case ConnectionRefusedError():
            return "refuses connections: is the server running there?"
        case socket.gaierror():
            return "the host is unknown"
    return str(problem)


async def _first_model(asked: Server, connection: Connection) -> str:
    pieces: list[bytes] = []
    sample = Sample(due=clock())
    call = Call(method="GET", path=asked.models_path, headers=asked.headers)
    await connection.exchange(call, sample, pieces.append)
    if sample.status in {401, 403}:
        raise Unreachable(f"{asked.url}: answers {sample.status}: give --api-key-file")
    if sample.error is not None:
        raise Unreachable(f"{asked.url}: {asked.models_path}: {sample.error}: give --model")
    found = _id(b"".join(pieces))
    if not found:
        raise Unreachable(f"{asked.url}: {asked.models_path} lists no model: give --model")
    return found


def _id(page: bytes) -> str | None:
    try:
        said: Any = json.loads(page)
        name = said["data"][0]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None
