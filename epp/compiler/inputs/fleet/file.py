"""The shape of a fleet file: what people write, field by field.

Place:   decoded by reading.py; tools/fleet_schema.py makes deploy/fleet.schema.json and the tables of
         docs/fleet-file.md of it.
Ignores: what the fields mean together: whatever needs to look at two of them in two places.
Rule:    every field has a text below it; what one record alone cannot be is refused in its __post_init__.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from epp.compiler.confidential import has_login, is_key, shown
from epp.compiler.http_routes import MOST_HOSTNAMES, MOST_WEIGHT
from epp.compiler.intent import MOST_PORTS
from epp.config.decode import Section
from epp.core.addresses import read_host, read_port, read_target
from epp.core.scoring import Bytes, Seconds

API_VERSION = "fleet-epp.dev/v1alpha1"
KIND = "Fleet"

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""A name in Kubernetes, as most kinds have it."""
MODEL = r"[^\s,]{1,253}"
"""A model's name: it stands in headers, and in lists with commas between them."""
ANY_NAME = "*"
"""``servedAs`` of servers that take every name."""
CLASS_HEADER = "x-data-class"
"""Of requests, where ``sensitive`` names no other."""
HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}"
NAMED = rf"({LABEL}/)?{LABEL}"
"""A name, and the namespace where it is another."""

SHORTEST, LONGEST = 0.1, 24 * 3600.0
"""[s] Of a timeout. Gateways count in whole milliseconds, and nobody reads an answer for longer than a day.
"""
LONGEST_WINDOW = 366 * 24 * 3600
"""[s] Of a budget."""
MOST_TOKENS = (1 << 32) - 1
"""What Envoy Gateway can count to in one window."""

ProviderName = Literal[
    "anthropic",
    "azure",
    "bedrock",
    "cohere",
    "deepseek",
    "gemini",
    "groq",
    "mistral",
    "openai",
    "together",
    "vertex",
    "xai",
]


def _must(subject: str, text: str, pattern: str, words: str) -> None:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(f'{subject}: must be {words}, got "{text[:60]}"')


def _may(subject: str, text: str, pattern: str, words: str) -> None:
    if text:
        _must(subject, text, pattern, words)


def _not_empty(subject: str, listed: Sequence[object] | None, absent: str) -> None:
    """What an empty list would mean nobody knows: none to the one, everything to the other."""
    if listed is not None and not listed:
        raise ValueError(f"{subject}: must not be empty; leave it out for {absent}")


_A_LABEL = "lower-case letters, digits and -, at most 63"
_A_MODEL = "without spaces and commas, and at most 253 characters"
_NAMED = '"name" or "namespace/name"'


def check_timeout(subject: str, seconds: float | None) -> None:
    """Whether a gateway can keep it."""
    if seconds is None:
        return
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"{subject}: must be from 100ms to 24h, got {seconds:g}s")
    if abs(seconds * 1000 - round(seconds * 1000)) > 1e-6:
        raise ValueError(f"{subject}: must be whole milliseconds, got {seconds * 1000:g}ms")


def _check_labels(subject: str, labels: Mapping[str, str]) -> None:
    word = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
    for label, value in labels.items():
        _must(subject, label, rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{word}", "labels")
        _may(subject, value, word, "values of labels")


def _check_port(subject: str, port: int) -> None:
    try:
        read_port(port)
    except ValueError as fault:
        raise ValueError(f"{subject}: {fault}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A machine outside the cluster, where its address alone does not say enough."""

    address: str
    """An IP address. Some gateways take a name that DNS knows as well, where no picker chooses."""
    port: int | None = None
    """Where it serves; else the backend's ``port``."""
    name: str = ""
    """As it is called in metrics and logs; else its address."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the picker is told of it, as of a pod's labels: ``fleet-epp.dev/tier``, ``fleet-epp.dev/engine``.
    """

    def __post_init__(self) -> None:
        try:
            read_host(self.address)
        except ValueError as fault:
            raise ValueError(f"address: {fault}") from None
        if self.port is not None:
            _check_port("port", self.port)
        _may("name", self.name, LABEL, _A_LABEL)
        _check_labels("labels", self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Servers of one or several models: pods, machines outside, or somebody's API."""

    pods: Mapping[str, str] = field(default_factory=dict)
    """Labels of its pods, in the fleet's namespace; a pod has to have all of them."""
    hosts: tuple[str | HostEntry, ...] = ()
    """Machines outside the cluster: ``10.0.0.21``, ``10.0.0.21:8080``, ``[fd00::21]:8080``. Together with
    ``pods`` they are one pool, and the picker chooses among all of them."""
    port: int | tuple[int, ...] | None = None
    """Where its pods' containers and its hosts listen; a list of up to 8 for pods that serve on several. Else
    the fleet's ``port``."""
    pool: str = ""
    """An InferencePool that is there already, as ``name`` or ``namespace/name``."""
    service: str = ""
    """A Service, as ``name:port`` or ``namespace/name:port``. Alone: requests go to it, without a picker.
    With ``pods``: the Service in front of them, for gateways that cannot use a pool there."""
    url: str = ""
    """Of an API that is asked as it stands: ``https://llm.partner.example/v1``."""
    provider: ProviderName | None = None
    """Whose API it is; with ``url``: whose words the one there speaks. Else OpenAI's."""
    region: str = ""
    """Of ``bedrock`` and ``vertex``."""
    secret: str = field(default="", metadata={"hidden": True})
    """The Secret with the API's key, in the fleet's namespace."""
    local: bool | None = None
    """Whether what is sent there stays in the house, which requests of ``sensitive`` classes must. Else: yes,
    but not for ``provider`` and ``url``."""
    served_as: str = ""
    """What the model is called there; else by its own name. ``*``: as the client called it, for servers that
    know it by all of its names, and by those of models that are combined of it alone or in the house, as vLLM
    does with ``--served-model-name qwen3-8b small chat`` and llama.cpp always."""
    health: str = ""
    """Path that answers 200 when it can serve, for ``service`` and ``url``; else it is not asked."""
    timeout: Seconds | None = None
    """Of one attempt there, the whole answer included. A model's own counts before that of its backends, the
    fleet's last."""

    def __post_init__(self) -> None:
        kinds = [name for name in ("pool", "url") if getattr(self, name)]
        kinds += ["pods or hosts"] if self.pods or self.hosts else []
        kinds += ["service"] if self.service and not self.pods else []
        kinds += ["provider"] if self.provider and not self.url else []
        if len(kinds) > 1:
            raise ValueError(f"is {' and '.join(kinds)} at once: keep one, and make backends of the others")
        if self.secret and not (self.url or self.provider or self.service):
            raise ValueError('secret: has no use here, only with "provider", "url" or "service"')
        for number in self.numbers:
            _check_port("port", number)
        if len(self.numbers) > MOST_PORTS or len(set(self.numbers)) < len(self.numbers):
            raise ValueError(f"port: must be at most {MOST_PORTS} different ones")
        _check_labels("pods", self.pods)
        _may("pool", self.pool, NAMED, _NAMED)
        _may("service", self.service, rf"{NAMED}:\d{{1,5}}", '"name:port" or "namespace/name:port"')
        if self.service:
            _check_port("service", int(self.service.rpartition(":")[2]))
        is_name = re.fullmatch(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?", self.secret, re.ASCII)
        if not is_name or is_key(self.secret):
            raise ValueError("secret: is not the name of a Secret: put the key into one, and name that here")
        _may("region", self.region, r"[a-z0-9-]{1,40}", "a region such as eu-central-1")
        _may("servedAs", self.served_as, MODEL, _A_MODEL)
        if self.health:
            try:
                read_target(self.health)
            except ValueError as fault:
                raise ValueError(f"health: {fault}") from None
        check_timeout("timeout", self.timeout)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of ``port``; empty: it is not given."""
        if self.port is None:
            return ()
        return self.port if isinstance(self.port, tuple) else (self.port,)

    @property
    def is_given(self) -> bool:
        """Whether it says where servers are."""
        return bool(self.pods or self.hosts or self.pool or self.service or self.url or self.provider)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry(Servers):
    """One name that clients ask for. It says itself where its servers are, or names ``backends``."""

    name: str
    """As clients call it: ``model`` in a request. With ``*`` or ``?`` it stands for all names like it, and
    each keeps the name that the client used."""
    aliases: tuple[str, ...] = ()
    """Other names for the same."""
    backends: tuple[str, ...] | Mapping[str, int] = ()
    """Where it is served, the first that can: entries of ``backends``, or other models.
    ``partner/qwen3-235b`` is the backend ``partner``, where the model is called ``qwen3-235b``. With
    numbers, ``{stable: 90, canary: 10}``, each gets its share."""
    owner: str = ""
    """Who answers for it; an annotation of what is made for it, for people."""

    def __post_init__(self) -> None:
        Servers.__post_init__(self)
        _must("name", self.name, MODEL, _A_MODEL)
        for alias in self.aliases:
            _must("aliases", alias, MODEL, _A_MODEL)
        if not self.backends and not self.is_given:
            raise ValueError('says nowhere where it is served: write "pods", "hosts" or "backends"')
        if self.backends:
            self._check_nothing_else()
        if any(share < 0 or share > MOST_WEIGHT for share in self.shares.values()):
            raise ValueError(f"backends: shares must be from 0 to {MOST_WEIGHT}")
        if self.shares and not any(self.shares.values()):
            raise ValueError(
                "backends: all shares are 0, so that nothing would serve it; give one of them more"
            )
        if repeated := twice(self.names):
            raise ValueError(f'backends: "{repeated}" is there twice, leave one out')

    def _check_nothing_else(self) -> None:
        if self.is_given:
            raise ValueError(
                "backends: are there beside servers of its own: make a backend of those, and name it first"
            )
        if self.served_as:
            raise ValueError('servedAs: is written behind the backend here: "partner/qwen3-235b"')
        for name in ("port", "region", "secret", "local", "health"):
            if getattr(self, name) not in (None, ""):
                raise ValueError(f"{name}: belongs to the backend, write it there")

    @property
    def names(self) -> tuple[str, ...]:
        """Of ``backends``, in their order."""
        return tuple(self.backends)

    @property
    def shares(self) -> Mapping[str, int]:
        """Of ``backends``; empty: they are tried in order."""
        return self.backends if isinstance(self.backends, Mapping) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitive:
    """Requests that must not leave the house. They go to local backends only, and are refused with 503 where
    none can serve."""

    classes: tuple[str, ...]
    """Values of the header, in upper or lower case alike."""
    header: str = CLASS_HEADER
    """The header in which clients, or a gateway in front, name a request's class."""
    models: tuple[str, ...] | None = None
    """The models that may serve them; else every model that has a local backend."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("classes: must not be empty, leave sensitive out")
        for one in self.classes:
            _must("classes", one, r"[!-~]{1,200}", "one word of ASCII each")
        _must("header", self.header, HEADER, "the name of a header")
        _not_empty("models", self.models, "every local one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Whose tokens (JWT) are accepted. Without it everybody may ask for everything."""

    issuer: str
    """``iss`` of the tokens."""
    jwks: str
    """URL of the issuer's keys."""
    audiences: tuple[str, ...] | None = None
    """``aud`` of the tokens; else any."""
    claim: str = "team"
    """The claim that names the team."""
    header: str = "x-team"
    """The header in which the team is passed on, for budgets and logs. What clients send in it does not
    count."""

    def __post_init__(self) -> None:
        for subject, url in (("issuer", self.issuer), ("jwks", self.jwks)):
            if has_login(url):
                raise ValueError(
                    f"{subject}: has a password in it, which everybody can read: write it without"
                )
        if not re.fullmatch(r"[!-~]{1,2048}", self.issuer, re.ASCII):
            raise ValueError(f'issuer: must be one word, got "{shown(self.issuer)[:60]}"')
        if not re.fullmatch(r"https?://[!-~]{1,2048}", self.jwks, re.ASCII):
            words = "a URL such as https://idp.example.com/jwks.json"
            raise ValueError(f'jwks: must be {words}, got "{shown(self.jwks)[:60]}"')
        _not_empty("audiences", self.audiences, "any")
        _must("claim", self.claim, r"[!-~]{1,253}", "one word")
        _must("header", self.header, HEADER, "the name of a header")


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """What a team may ask for. With teams, nobody else may ask for anything."""

    name: str
    """As the claim has it."""
    models: tuple[str, ...] | None = None
    """Models, by any of their names; else all."""

    def __post_init__(self) -> None:
        _not_empty("models", self.models, "all; for none, leave the team out")
        _must("name", self.name, r"[^\s,]{1,253}", "one word")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEntry:
    """Tokens, of prompts and answers together, that may be used within a window. Further requests get 429."""

    tokens: Bytes
    """How many: ``200k``, ``5M``."""
    window: Seconds = 3600.0
    """Within what time."""
    per: Literal["fleet", "team"] = "fleet"
    """Whose use is counted together: everybody's, or that of each team on its own."""
    model: str = ""
    """Of this model only; else of all."""

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise ValueError(f"tokens: must be from 1 to {MOST_TOKENS}, got {self.tokens}")
        if not 1 <= self.window <= LONGEST_WINDOW or self.window != int(self.window):
            raise ValueError(f"window: must be whole seconds from 1s to 8784h (a year), got {self.window:g}s")
        if self.per == "team" and self.model:
            raise ValueError('model: does not go with "per: team", leave one of them out')


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFile:
    """A site: its models, where they are served, and who may ask for what."""

    api_version: Literal["fleet-epp.dev/v1alpha1"]
    """``fleet-epp.dev/v1alpha1``."""
    kind: Literal["Fleet"]
    """``Fleet``."""
    metadata: Mapping[str, Any]
    """``name``, and ``namespace``: where everything is made, and where pods and Secrets are."""
    gateway: str = ""
    """The Gateway that requests come in through, as ``name`` or ``namespace/name``; else ``--gateway``."""
    listener: str = ""
    """One listener of it; else all."""
    hostnames: tuple[str, ...] = ()
    """Host names for which this holds; else every one of the Gateway's."""
    port: int = 8000
    """Where pods and hosts listen that say nothing else."""
    timeout: Seconds = 120.0
    """Of one attempt, the whole answer included, where model and backend say nothing else."""
    models: tuple[Section, ...]
    """What clients can ask for, one entry each."""
    backends: Mapping[str, Section] = field(default_factory=dict)
    """Servers that several models use, or that one uses beside others; by name."""
    default_model: str = ""
    """What serves requests for models that there are not; else they get 404."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    """How urgent requests may be: ``{interactive: 10, batch: -10}``; below 0 they may be turned away under
    load. A request names it in ``x-llm-d-inference-objective``, behind the name of its pool:
    ``qwen3-8b-batch``."""
    sensitive: Sensitive | None = None
    """Classes of requests that must not leave the house."""
    auth: Auth | None = None
    """Whose tokens are accepted."""
    teams: tuple[Team, ...] | None = None
    """Who may ask for what; needs ``auth``."""
    budgets: tuple[BudgetEntry, ...] = ()
    """How many tokens may be used."""
    audit: bool = False
    """A line in the gateway's log for each request: team, model, backend, tokens."""

    def __post_init__(self) -> None:
        _may("gateway", self.gateway, NAMED, _NAMED)
        _may("listener", self.listener, r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "the name of a listener")
        if len(self.hostnames) > MOST_HOSTNAMES:
            raise ValueError(f"hostnames: must be at most {MOST_HOSTNAMES}, got {len(self.hostnames)}")
        for name in self.hostnames:
            _must("hostnames", name, rf"(\*\.)?({LABEL}\.)*{LABEL}", "host names such as ai.example.com")
        _check_port("port", self.port)
        check_timeout("timeout", self.timeout)
        for name, value in self.priorities.items():
            _must("priorities", name, LABEL, _A_LABEL)
            if not -(1 << 31) <= value < 1 << 31:
                raise ValueError(f"priorities: must be 32-bit numbers, got {value}")
        _not_empty("teams", self.teams, "whoever has a valid token")


def twice(names: Sequence[str]) -> str:
    """The first that is there before already; empty: none."""
    return next((name for at, name in enumerate(names) if name in names[:at]), "")


def check_name(name: str) -> str:
    """What is wrong with the name of a fleet or of a backend; empty: nothing."""
    return "" if re.fullmatch(LABEL, name, re.ASCII) else f'must be {_A_LABEL}, got "{name[:60]}"'
