"""Where the API has the kinds of objects that the controller looks at (epp/compiler/kinds.py).

Place:   used by watching.py and cluster.py.
Rule:    which of them there are, and what their plurals are, the API says: kinds come with the CRDs, before
         us or after.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import aiohttp
import msgspec

from epp.compiler.kinds import Kind
from epp.runtime.kubernetes.api import Resource
from epp.runtime.kubernetes.store import ApiFault


class Api(Protocol):
    """What is needed of epp.runtime.kubernetes.api."""

    async def fetch(
        self, path: str, query: Mapping[str, str], *, timeout: aiohttp.ClientTimeout = ...
    ) -> bytes: ...


class _Served(msgspec.Struct, frozen=True):
    """Nothing can be created of a kind whose CRD is on its way out, and whose objects go with it."""

    name: str
    kind: str
    verbs: tuple[str, ...] = ("create",)


class _List(msgspec.Struct, frozen=True):
    resources: list[_Served] = []


class Discovery:
    """Which kinds the API has, as it last said."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._plurals: dict[tuple[str, str], dict[str, str]] = {}
        """By group and version: plurals by kind."""

    async def look(self, kinds: Iterable[Kind]) -> None:
        """Ask about these; ApiFault."""
        for group, version in sorted({(kind.group, each) for kind in kinds for each in kind.versions}):
            await self._ask(group, version)

    def find(self, kind: Kind) -> Resource | None:
        """Where its objects are; None: it is not there."""
        return next(
            (found for version in kind.versions if (found := self.at(kind.group, version, kind.name))), None
        )

    def at(self, group: str, version: str, kind: str) -> Resource | None:
        """The same for one version."""
        plural = self._plurals.get((group, version), {}).get(kind)
        return None if plural is None else Resource(plural, group, version)

    async def resource(self, api_version: str, kind: str) -> Resource:
        """Where objects of this kind are, asked for where nobody has said so; ApiFault 404: nowhere."""
        group, _, version = api_version.rpartition("/")
        if self.at(group, version, kind) is None:
            await self._ask(group, version)
        found = self.at(group, version, kind)
        if found is None:
            raise ApiFault(404, f"the cluster has no {kind} of {api_version}: install its CRD")
        return found

    async def again(self, api_version: str, kind: str) -> None:
        """See whether the kind is there still; ApiFault 404: it has gone."""
        group, _, version = api_version.rpartition("/")
        await self._ask(group, version)
        await self.resource(api_version, kind)

    async def _ask(self, group: str, version: str) -> None:
        try:
            body = await self._api.fetch(Resource("", group, version).home, {})
        except ApiFault as fault:
            if fault.status != 404:
                raise
            self._plurals.pop((group, version), None)
            return
        try:
            served = msgspec.json.decode(body, type=_List).resources
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"its list of kinds of {group}/{version} is not understood: {fault}") from fault
        self._plurals[group, version] = {
            one.kind: one.name for one in served if "/" not in one.name and "create" in one.verbs
        }
