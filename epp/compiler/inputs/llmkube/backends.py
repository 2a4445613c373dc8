"""The backends of a ModelRouter.

Rule:    each leads to exactly one of an InferenceService of the same namespace and a server outside. One that
         cannot be used fails the router: leaving it out would change what a rule means.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from epp.compiler.documents import Document
from epp.compiler.inputs.llmkube import objects
from epp.compiler.inputs.llmkube.providers import Unusable, is_private, upstream
from epp.compiler.inputs.llmkube.servers import Served
from epp.compiler.inputs.llmkube.telling import FAILED, INVALID, Told
from epp.compiler.intent import Backend, Upstream
from epp.compiler.options import Options
from epp.core.durations import duration

LOCAL_BACKENDS = "fleet-epp.dev/local-backends"
"""Annotation of a ModelRouter: names of external backends that sensitive requests may go to, with commas."""
SAYS_CLOUD = "says tier: cloud"
SHORTEST, LONGEST = 0.1, 1800.0
"""[s] Of timeouts, as LLMKube's webhook has it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One backend, and what only rules ask of it."""

    backend: Backend
    display_name: str = ""
    capabilities: frozenset[str] = frozenset()
    why_cloud: str = ""
    """Why sensitive requests may not go there, with the way out; empty: they may."""


def read_timeout(written: str | None, field: str, told: Told) -> float | None:
    """[s] None: nobody said, or it is an error."""
    if written is None:
        return None
    seconds = duration(written)
    if seconds is not None and SHORTEST <= round(seconds, 9) <= LONGEST:
        return round(seconds, 9)
    told.error(INVALID, field, f"{written!r} is no time from 100ms to 30m", "write, for example, 90s or 1.5s")
    return None


def names_of(choices: Iterable[Choice]) -> list[tuple[Choice, tuple[str, ...]]]:
    """Each with the model names that lead to it by BackendNameMatch; the first that has a name keeps it."""
    taken = set[str]()
    found = []
    for choice in choices:
        names = dict.fromkeys((choice.display_name, choice.backend.name))
        own = tuple(name for name in names if name and name not in taken)
        taken.update(own)
        if own:
            found.append((choice, own))
    return found


class Backends:
    """Reads those of one router. ``served``: the InferenceServices that it names, of its namespace."""

    def __init__(
        self, document: Document, served: Mapping[str, Served | None], options: Options, told: Told
    ) -> None:
        self._namespace = document.namespace
        said = document.annotations.get(LOCAL_BACKENDS, "")
        self._trusted = {part.strip() for part in said.split(",")}
        self._served = served
        self._options = options
        self._told = told
        self._timeout: float | None = None

    def read(self, spec: objects.ModelRouter) -> Mapping[str, Choice]:
        """By name, in the order in which they are written; those with an error are missing."""
        usual = (spec.proxy or objects.Proxy()).response_header_timeout
        self._timeout = read_timeout(usual, "spec.proxy.responseHeaderTimeout", self._told)
        choices: dict[str, Choice] = {}
        seen = set[str]()
        for index, one in enumerate(spec.backends or ()):
            field = f"spec.backends[{index}]"
            if one.name in seen:
                self._told.error(
                    INVALID, f"{field}.name", f"two backends are called {one.name}", "rename one of them"
                )
                continue
            seen.add(one.name)
            choice = self._choice(one, field)
            if choice is not None:
                choices[one.name] = choice
        if not seen:
            self._told.error(INVALID, "spec.backends", "the router has no backends", "name at least one")
        return choices

    def _choice(self, one: objects.Backend, field: str) -> Choice | None:
        timeout = read_timeout(one.timeout, f"{field}.timeout", self._told) or self._timeout
        weight = 1 if one.weight is None else one.weight
        path = (one.health_check and one.health_check.path) or ""
        origin = self._told.origin.at(field)
        capabilities = frozenset(one.capabilities or ())
        display_name = one.display_name or ""
        match one.inference_service_ref, one.external:
            case None, objects.External() as external:
                server = self._server(one, external, field)
                if server is None:
                    return None
                why_cloud = self._why_cloud(one, server)
                backend = Backend(
                    one.name,
                    server,
                    origin,
                    model=external.model,
                    local=not why_cloud,
                    weight=weight,
                    health_path=path,
                    timeout=timeout,
                )
                return Choice(backend, display_name, capabilities, why_cloud)
            case objects.Ref() as ref, None:
                served = self._service(one, ref, field)
                if served is None:
                    return None
                backend = Backend(
                    one.name,
                    replace(
                        served.pool, origin=origin
                    ),  # what is made for this router stays while it is wrong
                    origin,
                    weight=weight,
                    down=served.down,
                    health_path=path or served.health_path,
                    timeout=timeout,
                )
                return Choice(backend, display_name, capabilities)
            case _:
                has = "neither" if one.external is None else "both"
                what = f"backend {one.name} has {has} of inferenceServiceRef and external"
                self._told.error(INVALID, field, what, "write exactly one of them")
                return None

    # --- in the cluster

    def _service(self, one: objects.Backend, ref: objects.Ref, field: str) -> Served | None:
        where = f"{field}.inferenceServiceRef"
        if one.tier == "cloud":
            self._told.error(
                INVALID,
                f"{field}.tier",
                f"backend {one.name} is an InferenceService of this cluster, and says that it is in a cloud",
                "write tier: local, or leave it out",
            )
        if ref.namespace not in {None, "", self._namespace}:
            self._told.error(
                FAILED,
                f"{where}.namespace",
                f"InferenceService {ref.name} is in namespace {ref.namespace}, and a ModelRouter reaches "
                f"only those of its own ({self._namespace})",
                f"move the router to {ref.namespace}, or name the service's URL as an external backend",
            )
            return None
        served = self._served.get(ref.name)
        if served is None:
            self._told.error(
                FAILED,
                where,
                f"backend {one.name}: there is no InferenceService {ref.name or '(no name)'} in "
                f"{self._namespace}, or it cannot be read",
                "create it, or correct the name",
            )
            return None
        self._remark(one, served, field)
        return served

    def _remark(self, one: objects.Backend, served: Served, field: str) -> None:
        if served.shares:
            self._told.warning(
                "ModelPoolNotActivated",
                f"{field}.inferenceServiceRef",
                f"InferenceService {served.pool.name} takes turns on one GPU in ModelPool {served.shares}, "
                "and no gateway wakes it: while another member is resident, requests fail over or get 503",
                "take it out of the pool, or keep this router on dataPlane: Proxy",
            )
        if one.resolution == "service":
            self._told.info(
                "ResolutionIgnored",
                f"{field}.resolution",
                "resolution: service is for LLMKube's proxy; here a picker chooses among the servers",
            )

    # --- outside

    def _server(self, one: objects.Backend, external: objects.External, field: str) -> Upstream | None:
        try:
            return upstream(external, self._told.origin.at(f"{field}.external"))
        except Unusable as fault:
            self._told.error(FAILED, f"{field}.external.url", f"backend {one.name}: {fault}", fault.fix)
            return None

    def _why_cloud(self, one: objects.Backend, server: Upstream) -> str:
        """An API server writes ``tier: local`` where nobody wrote a tier: there the word says little."""
        if one.tier == "cloud":
            return SAYS_CLOUD
        if one.name in self._trusted:
            return ""
        if one.tier is None:
            return "says no tier, and what is outside counts as a cloud: write tier: local if it is none"
        if not self._options.is_live or is_private(server.host):
            return ""
        return (
            f"is {server.host}, which does not look like a server of this site, and its tier: local may be "
            f"what the API server fills in: if it is yours, name it in the annotation {LOCAL_BACKENDS}"
        )
