"""Who may read the pages: reviews by an API of the test, what is remembered of them, what people are told."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from epp.runtime import admin
from epp.runtime.kubernetes import access as subject
from epp.runtime.kubernetes.access import Access
from epp.runtime.kubernetes.store import ApiFault

READER = {"username": "system:serviceaccount:monitoring:prometheus", "uid": "u-1", "groups": ["scrapers"]}
STRANGER = {"username": "system:serviceaccount:models:stranger", "extra": {"pod": ["a", "b"]}}
RULES = {(READER["username"], "get", "/metrics")}


class Api:
    """Knows two tokens, and one rule."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.fault: Exception | None = None
        self.rubbish: bytes | None = None
        self.users = {"reader-token": READER, "stranger-token": STRANGER}
        self.at_once, self.most_at_once = 0, 0

    @property
    def kinds(self) -> Counter[str]:
        return Counter(each["kind"] for each in self.asked)

    async def write(self, method: str, path: str, document: Mapping[str, Any]) -> bytes:
        assert (method, path) in {
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        }
        self.asked.append(document)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.fault is not None:
            raise self.fault
        if self.rubbish is not None:
            return self.rubbish
        spec = document["spec"]
        if document["kind"] == "TokenReview":
            user = self.users.get(spec["token"])
            status: dict[str, Any] = {"user": READER, "error": "it is not authenticated, whoever it names"}
            return json.dumps({"status": {"authenticated": True, "user": user} if user else status}).encode()
        asked = spec["nonResourceAttributes"]
        is_allowed = (spec["user"], asked["verb"], asked["path"]) in RULES
        return json.dumps({"status": {"allowed": is_allowed}}).encode()


class Site:
    """An Access and its time."""

    def __init__(self) -> None:
        self.api = Api()
        self.now = 0.0
        self.access = Access(self.api, clock=lambda: self.now)

    async def ask(self, token: str = "reader-token", path: str = "/metrics", method: str = "GET") -> int:
        """200, or the status of the refusal."""
        refusal = await self.access.refusal(f"Bearer {token}", method, path)
        return 200 if refusal is None else refusal.status


@pytest.fixture
def site() -> Site:
    return Site()


async def test_whoever_may_get_the_path_is_shown_it(site: Site) -> None:
    assert await site.ask() == 200
    token, rights = site.api.asked
    assert token["spec"] == {"token": "reader-token"}
    assert rights["spec"] == {
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        "user": READER["username"],
        "uid": "u-1",
        "groups": ["scrapers"],
        "extra": {},
    }


@pytest.mark.parametrize(
    "header, status, error",
    [
        pytest.param("", 401, "send Authorization: Bearer TOKEN, of one who may get it", id="nothing"),
        pytest.param("Basic cm9vdDpyb290", 401, "send Authorization: Bearer TOKEN", id="another scheme"),
        pytest.param("Bearer", 401, "send Authorization: Bearer TOKEN", id="no token"),
        pytest.param("Bearer guess", 401, "the cluster does not know this token", id="unknown"),
        pytest.param(
            "bearer stranger-token",
            403,
            "system:serviceaccount:models:stranger may not get it: bind a ClusterRole with nonResourceURLs:"
            " [/metrics], verbs: [get] to it",
            id="not allowed",
        ),
    ],
)
async def test_others_are_told_why_not(site: Site, header: str, status: int, error: str) -> None:
    refusal = await site.access.refusal(header, "GET", "/metrics")
    assert refusal is not None and refusal.status == status
    assert refusal.error.startswith("/metrics: ") and error in refusal.error


async def test_rights_are_asked_for_with_all_that_the_api_says_of_the_user(site: Site) -> None:
    await site.ask("stranger-token")
    assert site.api.asked[1]["spec"]["extra"] == {"pod": ["a", "b"]}


async def test_rights_are_for_one_path_and_one_verb(site: Site) -> None:
    assert [await site.ask(path="/debug/picks"), await site.ask(method="HEAD")] == [403, 403]


async def test_a_yes_that_is_remembered_is_for_one_path_and_one_verb_too(site: Site) -> None:
    assert await site.ask() == 200
    assert [await site.ask(path="/debug/picks"), await site.ask(method="HEAD")] == [403, 403]


@pytest.mark.parametrize(
    "change",
    [{"uid": "u-2"}, {"groups": ["others"]}, {"extra": {"pod": ["c"]}}],
    ids=["uid", "groups", "extra"],
)
async def test_a_yes_that_is_remembered_is_for_the_user_as_the_api_said_it(
    site: Site, change: dict[str, Any]
) -> None:
    """A ServiceAccount that is deleted and made anew has its old name."""
    assert await site.ask() == 200
    site.api.users["reader-token"] = {**READER, **change}
    site.now = subject.KNOWN_SECONDS
    await site.ask()
    assert site.api.kinds == {"TokenReview": 2, "SubjectAccessReview": 2}


async def test_while_the_api_cannot_be_asked_nobody_is_shown_anything_and_the_log_says_so_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    fault = ApiFault(403, 'cannot create resource "tokenreviews" in API group "authentication.k8s.io"')
    site.api.fault = fault
    with caplog.at_level(logging.WARNING):
        assert [await site.ask(), await site.ask()] == [500, 500]
    (record,) = caplog.records
    assert 'cannot create resource "tokenreviews"' in record.fields["error"]  # type: ignore[attr-defined]
    site.api.fault = None
    assert await site.ask() == 200, "a fault is not remembered"
    site.now, site.api.fault = subject.KNOWN_SECONDS, fault
    assert await site.ask() == 500
    assert len(caplog.records) == 2, "another time is another matter"


async def test_an_answer_that_is_not_understood_is_none(site: Site) -> None:
    site.api.rubbish = b"<html>"
    assert await site.ask() == 500


async def test_what_the_api_said_counts_for_a_while(site: Site) -> None:
    assert await site.ask() == 200
    site.now = subject.KNOWN_SECONDS - 1
    assert await site.ask() == 200
    assert site.api.kinds == {"TokenReview": 1, "SubjectAccessReview": 1}
    site.now = subject.KNOWN_SECONDS
    assert await site.ask() == 200
    assert site.api.kinds == {"TokenReview": 2, "SubjectAccessReview": 1}
    site.now = subject.ALLOWED_SECONDS
    assert await site.ask() == 200
    assert site.api.kinds == {"TokenReview": 3, "SubjectAccessReview": 2}


async def test_a_no_counts_for_less_time_than_a_yes(site: Site) -> None:
    assert await site.ask("stranger-token") == 403
    site.now = subject.DENIED_SECONDS
    assert await site.ask("stranger-token") == 403
    assert site.api.kinds == {"TokenReview": 1, "SubjectAccessReview": 2}


async def test_what_is_remembered_is_bounded_and_holds_no_token(site: Site) -> None:
    for number in range(subject.MOST_KEPT + 50):
        assert await site.ask(f"secret-{number}") == 401
    kept = site.access._users._entries
    assert len(kept) == subject.MOST_KEPT
    assert "secret" not in repr(kept)
    site.api.asked.clear()
    await site.ask(f"secret-{subject.MOST_KEPT + 48}")
    assert site.api.asked == [], "the oldest went first"


async def test_a_flood_of_tokens_does_not_flood_the_api(site: Site) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(site.ask(f"guess-{number}"))
    assert site.api.most_at_once == subject.MOST_AT_ONCE


async def test_no_token_is_ever_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await site.ask("reader-token")
        site.api.fault = ApiFault(0, "no answer")
        await site.ask("another-token")
    assert "token" not in caplog.text


HEADERS = st.text(max_size=40) | st.tuples(
    st.sampled_from(["Bearer", "bearer", "BEARER", "Basic", ""]),
    st.sampled_from([" ", "  ", "\t", ""]),
    st.sampled_from(["reader-token", "reader-token more", "stranger-token", ""]),
).map("".join)


@given(header=HEADERS)
def test_no_header_but_a_readers_opens_anything(header: str) -> None:
    refusal = asyncio.run(Site().access.refusal(header, "GET", "/metrics"))
    scheme, *rest = header.strip().split(" ")
    assert (refusal is None) == (scheme.lower() == "bearer" and rest[:1] == ["reader-token"])


# --- pages -------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(site: Site) -> AsyncIterator[str]:
    """A site on which every path is a page, as epp.runtime.admin guards them."""

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.path)

    guard: Any = web.middleware(admin._Pages(cast("Any", None), web).guard(site.access))
    app = web.Application(middlewares=[guard])
    app.add_routes([web.route("*", "/{rest:.*}", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    "path, token, status",
    [
        ("/metrics", "", 401),
        ("/metrics", "reader-token", 200),
        ("/metrics", "stranger-token", 403),
        ("/debug/picks", "", 401),
        ("/debug/picks", "reader-token", 403),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/readyz/pools/qwen", "", 200),
        ("/readyzzz", "", 401),
        ("/%6Detrics", "", 401),
        ("/", "", 401),
    ],
)
async def test_every_page_but_the_probes_is_guarded(guarded: str, path: str, token: str, status: int) -> None:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url = URL(guarded + path, encoded=True)
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        assert response.status == status
        if status == 200:
            return
        assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        error = json.loads(await response.text())["error"]
    assert error.startswith("/") and "\n" not in error and (not token or token not in error)
