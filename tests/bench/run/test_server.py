import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import Options, Sample, Traffic, chat_call, clock
from bench.run.server import Unreachable, greeted, header, server
from epp.config.decode import ConfigError
from tests.bench.run.chat import chat
from tests.system.certificates import Authority


@pytest.mark.parametrize(
    "url, path, models",
    [
        ("http://h", "/v1/chat/completions", "/v1/models"),
        ("http://h:1/", "/v1/chat/completions", "/v1/models"),
        ("http://h/v1", "/v1/chat/completions", "/v1/models"),
        ("http://h/v1/chat/completions", "/v1/chat/completions", "/v1/models"),
        ("http://h/team/v1/", "/team/v1/chat/completions", "/team/v1/models"),
        ("http://h/team", "/team/v1/chat/completions", "/team/v1/models"),
    ],
)
def test_a_url_may_end_before_or_after_its_v1(url: str, path: str, models: str) -> None:
    found = server(url)
    assert (found.target.path, found.models_path) == (path, models)


@pytest.mark.parametrize(
    "url, port, authority",
    [
        ("http://h", 80, "h"),
        ("https://h", 443, "h"),
        ("https://h:8443", 8443, "h:8443"),
        ("http://[::1]:81", 81, "[::1]:81"),
    ],
)
def test_the_host_header_has_the_port_where_the_scheme_does_not_say_it(
    url: str, port: int, authority: str
) -> None:
    target = server(url).target
    assert (target.port, target.authority) == (port, authority)
    assert (target.tls is not None) == url.startswith("https")


@pytest.mark.parametrize(
    "url, says",
    [
        pytest.param("127.0.0.1:8000", "is no URL of a server: write for example", id="no-scheme"),
        pytest.param("ftp://h", "is no URL of a server", id="scheme"),
        pytest.param("http://h:99999", "is no URL: Port out of range", id="port"),
        pytest.param("http://me:secret@h/", "has a user or a password: use --api-key-file", id="secret"),
        pytest.param("http://h/?a=1", "has a query or a fragment", id="query"),
        pytest.param("http://h/v1/completions", "takes no conversations", id="completions"),
        pytest.param("http://a\0b/", "is no URL of a server", id="host"),
        pytest.param("http://h/a b", "must begin with / and hold no blanks", id="blank"),
    ],
)
def test_what_is_no_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as problem:
        server(url)
    assert str(problem.value).startswith("--url: ") and "secret" not in str(problem.value)


def test_a_header_is_a_name_and_a_value() -> None:
    assert header("x-tenant:  blue ") == ("x-tenant", "blue")


@pytest.mark.parametrize("text", ["no colon", ": x", "a b: c", "a: b\r\nc: d", "Host: h", "x: \xe9"])
def test_no_other_header_is_sent_and_its_value_not_told(text: str) -> None:
    with pytest.raises(ConfigError, match="--header: ") as problem:
        header(text)
    assert "c: d" not in str(problem.value)


async def test_the_model_is_the_first_that_the_server_lists_unless_it_is_given() -> None:
    async with chat() as there:
        assert (await greeted(server(there.url))).model == "listed"
        assert (await greeted(server(there.url, model="mine"))).model == "mine"
    assert len(there.heads) == 1


async def test_who_refuses_is_told_at_once() -> None:
    with socket.socket() as unused:  # bound, not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable, match=f"{url}: refuses connections: is the server running there"):
            await greeted(server(url))


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "a" * 64])
async def test_a_host_that_nobody_knows_is_told(host: str) -> None:
    with pytest.raises(Unreachable, match="host is unknown"):
        await greeted(server(f"http://{host}"))


@given(st.text() | st.text().map("http://{}".format) | st.text().map("https://h:{}".format))
def test_any_text_is_a_url_or_refused_in_one_line(text: str) -> None:
    try:
        said = server(text).target.path
    except ConfigError as problem:
        said = str(problem)
    assert said.startswith(("--url: ", "/")) and "\n" not in said


@given(st.text() | st.text().map("x: {}".format))
def test_any_text_is_a_header_or_refused(text: str) -> None:
    try:
        said = "".join(header(text))
    except ConfigError as problem:
        said = str(problem)
    assert said and not set("\r\n\0") & set(said)


@pytest.mark.parametrize("models", [b"", b"[]", b'{"data":[]}', b'{"data":[{"id":7}]}', b"[" * 5_000])
async def test_who_lists_no_model_has_to_be_told_one(models: bytes) -> None:
    async with chat(models=models) as there:
        with pytest.raises(Unreachable, match="/v1/models lists no model: give --model"):
            await greeted(server(there.url))


async def test_who_wants_a_key_is_told_how_to_give_it() -> None:
    data = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    async with await asyncio.start_server(refuses, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable, match="answers 401: give --api-key-file"):
            await greeted(server(url))


async def test_https_is_spoken_with_those_whose_certificate_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "test")
    async with chat(tls=authority.server("127.0.0.1")) as there:
        with pytest.raises(Unreachable, match=r"certificate is refused .*: give --ca-file, or --insecure"):
            await greeted(server(there.url))
        trusting = ssl.create_default_context(cafile=authority.file)
        found = await greeted(server(there.url, tls=trusting))
        traffic, sample = Traffic(found.target, (), Options()), Sample(due=clock())
        async with traffic.clients():
            await traffic.one(chat_call([{"role": "user", "content": "hi"}]), sample)
    assert (found.model, sample.error) == ("listed", None)
    assert sample.ttft is not None
