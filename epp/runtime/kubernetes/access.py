"""Who may read the pages, as the Kubernetes API says: TokenReview, then SubjectAccessReview.

Place:   asked by epp.runtime.admin before a page is made (--metrics-endpoint-auth).
Ignores: what the pages show.
Rule:    a token is sent to the API and to nobody else; what is remembered of it is a hash. Where the API
         cannot be asked nothing is shown. What it said counts for as long as upstream lets it count.
Source:  controller-runtime, metrics/filters.WithAuthenticationAndAuthorization.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from epp.runtime.admin import Refusal
from epp.runtime.kubernetes.api import Resource
from epp.runtime.kubernetes.store import ApiFault, Expired

logger = logging.getLogger("epp.access")

TOKEN_REVIEWS = Resource("tokenreviews", "authentication.k8s.io", "v1")
ACCESS_REVIEWS = Resource("subjectaccessreviews", "authorization.k8s.io", "v1")
KNOWN_SECONDS = 60.0
"""Whose a token is, or that it is nobody's."""
ALLOWED_SECONDS, DENIED_SECONDS = 300.0, 30.0
MOST_KEPT = 1024
"""Readers are a few; strangers may come with as many tokens as they like."""
MOST_AT_ONCE = 8
"""Questions: whoever sends us tokens does not get to flood the API."""


class Api(Protocol):
    """What is needed of epp.runtime.kubernetes.api."""

    async def write(self, method: str, path: str, document: Mapping[str, Any]) -> bytes: ...


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] | None = None
    extra: dict[str, tuple[str, ...]] | None = None

    @property
    def key(self) -> Hashable:
        return self.username, self.uid, self.groups, tuple(sorted((self.extra or {}).items()))


class _Token(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()


class _Access(msgspec.Struct, frozen=True):
    allowed: bool = False


T = TypeVar("T")


class _Review(msgspec.Struct, Generic[T], frozen=True):
    status: T


class Access:
    """Asks ``api``, which is open."""

    def __init__(self, api: Api, *, clock: Callable[[], float]) -> None:
        self._api = api
        self._users: _Kept[_User | None] = _Kept(clock)
        self._allowed: _Kept[bool] = _Kept(clock)
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._error = ""

    async def refusal(self, authorization: str, method: str, path: str) -> Refusal | None:
        """None: whoever sent this header may do this. ``method``: of HTTP, whose name is the verb."""
        verb, token = method.lower(), _bearer(authorization)
        if not token:
            return Refusal(401, f"{path}: send Authorization: Bearer TOKEN, of one who may {verb} it")
        try:
            user = await self._user(token)
            if user is None:
                return Refusal(401, f"{path}: the cluster does not know this token, or it has run out")
            is_allowed = await self._may(user, verb, path)
        except (ApiFault, Expired) as fault:
            self._tell(str(fault))
            return Refusal(500, f"{path}: the Kubernetes API could not be asked who may see it: {fault}")
        self._tell("")
        if is_allowed:
            return None
        rule = f"a ClusterRole with nonResourceURLs: [{path}], verbs: [{verb}]"
        return Refusal(403, f"{path}: {user.username} may not {verb} it: bind {rule} to it")

    async def _user(self, token: str) -> _User | None:
        key = hashlib.sha256(token.encode()).digest()
        if (kept := self._users.get(key)) is not None:
            return kept.value
        document = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        said = await self._ask(TOKEN_REVIEWS, document, _Review[_Token])
        user = said.status.user if said.status.authenticated else None
        self._users.keep(key, user, KNOWN_SECONDS)
        return user

    async def _may(self, user: _User, verb: str, path: str) -> bool:
        key = (user.key, verb, path)
        if (kept := self._allowed.get(key)) is not None:
            return kept.value
        spec = {
            "nonResourceAttributes": {"path": path, "verb": verb},
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups or ()),
            "extra": {name: list(values) for name, values in (user.extra or {}).items()},
        }
        document = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        is_allowed = (await self._ask(ACCESS_REVIEWS, document, _Review[_Access])).status.allowed
        self._allowed.keep(key, is_allowed, ALLOWED_SECONDS if is_allowed else DENIED_SECONDS)
        return is_allowed

    async def _ask(self, resource: Resource, document: Mapping[str, Any], kind: type[T]) -> T:
        async with self._slots:
            body = await self._api.write("POST", f"{resource.home}/{resource.plural}", document)
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"its answer about {resource.plural} is not understood: {fault}") from fault

    def _tell(self, error: str) -> None:
        """Once for each change; readers come every few seconds."""
        if error and error != self._error:
            logger.warning("nobody can be asked who may see the pages", extra={"fields": {"error": error}})
        self._error = error


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    value: T
    until: float


class _Kept(Generic[T]):
    """What counts for a while, and no more than ``MOST_KEPT`` of it: the oldest goes first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[Hashable, _Entry[T]] = {}

    def get(self, key: Hashable) -> _Entry[T] | None:
        entry = self._entries.get(key)
        if entry is not None and self._clock() >= entry.until:
            del self._entries[key]
            return None
        return entry

    def keep(self, key: Hashable, value: T, seconds: float) -> None:
        self._entries.pop(key, None)
        if len(self._entries) >= MOST_KEPT:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = _Entry(value, self._clock() + seconds)


def _bearer(authorization: str) -> str:
    """The token of a header, as the API server itself finds it; empty: there is none."""
    scheme, _, rest = authorization.strip().partition(" ")
    return rest.split(" ", 1)[0] if scheme.lower() == "bearer" else ""
