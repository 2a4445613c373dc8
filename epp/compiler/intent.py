"""What is to be reached, in no gateway's words: pools of servers, rules that lead to them, who may ask for
what.

Place:   written by inputs/, read by targets/; claims.py settles between routers.
Rule:    meaning that all gateways share is worked out before it is written here: patterns that can never
         match are gone, capabilities are resolved, a BackendNameMatch is a rule for each name. What is left
         can be expressed by a target or is refused by it.
Source:  LLMKube's router-proxy, whose rules this keeps: the first rule that matches decides, and no other is
         tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from epp.compiler.findings import Origin

# --- where requests can go -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Host:
    """A server outside the cluster. ``address``: an IP, or a name that DNS knows."""

    name: str
    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)


MOST_PORTS = 8
"""Of the servers of one pool: what an InferencePool can have."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Servers among which a picker chooses for each request: pods, and machines outside.

    ``selector``: labels of its pods; empty: it has none. ``ports``: of their containers, 1 to 8. ``slices``:
    names of Services whose EndpointSlices somebody else keeps, as LLMKube's metal agent does. ``hosts``: for
    these the slice is ours to make. ``exists``: an InferencePool that somebody made, only to be named.
    """

    name: str
    namespace: str
    origin: Origin
    selector: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    slices: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    exists: bool = False
    service: str = ""
    """``name:port`` of the Service in front of its pods, for the way without a picker; empty: none is
    known."""


class Schema(StrEnum):
    """In which words a provider is asked, as Envoy AI Gateway names them."""

    OPENAI = "OpenAI"
    ANTHROPIC = "Anthropic"
    BEDROCK = "AWSBedrock"
    AZURE = "AzureOpenAI"
    VERTEX = "GCPVertexAI"
    COHERE = "Cohere"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that is asked as it stands, without a picker: a provider, a Service, a host.

    ``prefix``: of the path, ``/v1`` by default. ``secret``: name of the Secret with the key, in the same
    namespace. ``region``: of AWS and Google. ``tls``: verified by the system's authorities.
    """

    host: str
    port: int
    origin: Origin
    tls: bool = False
    schema: Schema = Schema.OPENAI
    prefix: str = "/v1"
    secret: str = ""
    region: str = ""


Servers: TypeAlias = Pool | Upstream


@dataclass(frozen=True, slots=True)
class Backend:
    """One choice of a rule.

    ``model``: what the model is called there; empty: as the client called it. ``down``: why it cannot serve
    now, as far as is known; empty: it can. ``health_path``: that answers 200 when it can serve; empty: none
    is known. ``timeout`` [s]: of one attempt, body included; None: the rule's.
    """

    name: str
    servers: Servers
    origin: Origin
    model: str = ""
    local: bool = True
    weight: int = 1
    down: str = ""
    health_path: str = ""
    timeout: float | None = None


# --- which requests go there ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """A header that a request must have, with one of ``values``. ``header``: in lower case."""

    header: str
    values: tuple[str, ...]
    ignore_case: bool = False


class Strategy(StrEnum):
    """How a rule uses its backends: in order, the next where one fails; or by their weights."""

    FALLBACK = "fallback"
    WEIGHTED = "weighted"


DEFAULT_TIMEOUT = 120.0
"""[s] Of one attempt where nobody said anything, as LLMKube's proxy has it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """All ``conditions`` and one of ``models`` must hold.

    ``models``: names, or globs as Go's path.Match has them; empty: whatever the model. ``backends``: none:
    refused with 503, as is meant. ``fail_closed``: sensitive, must never be served by anything but these
    backends; refused with 503 where none can serve. ``timeout`` [s]: of one attempt, body included; None: the
    backend's, else DEFAULT_TIMEOUT. ``is_default``: for what no other rule of the router wanted; the last,
    without models and conditions. ``owner``: who answers for it, for people; empty: nobody is named.
    """

    name: str
    backends: tuple[Backend, ...]
    origin: Origin
    models: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    strategy: Strategy = Strategy.FALLBACK
    fail_closed: bool = False
    sensitive: bool = False
    timeout: float | None = None
    is_default: bool = False
    owner: str = ""

    @property
    def is_guarded(self) -> bool:
        """Whether its requests must never be served by anything else."""
        return self.sensitive or self.fail_closed


def is_glob(model: str) -> bool:
    """Whether it stands for more than itself."""
    return any(sign in model for sign in "*?[\\")


# --- who may ask, and how much -------------------------------------------------------------------------


class Scope(StrEnum):
    """Whose tokens a budget counts together."""

    ROUTER = "router"
    RULE = "rule"
    TEAM = "team"


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens within a window of ``seconds``. ``rule``: of scope rule. ``header``: which names the team."""

    name: str
    scope: Scope
    tokens: int
    seconds: int
    origin: Origin
    rule: str = ""
    header: str = ""


@dataclass(frozen=True, slots=True)
class Jwt:
    """Whose tokens are accepted, and the claim in them that names the team."""

    issuer: str
    jwks: str
    team_claim: str
    team_header: str
    provider: str = "default"
    audiences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The models that a team may ask for; none: all."""

    team: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """``allowances`` empty: whoever has a valid token may ask for everything."""

    jwt: Jwt
    origin: Origin
    allowances: tuple[Allowance, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayRef:
    """``section``: of one listener; empty: all."""

    name: str
    namespace: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Router:
    """Rules that are tried in their order, for the requests that come in through ``gateway``."""

    name: str
    namespace: str
    gateway: GatewayRef
    rules: tuple[Rule, ...]
    origin: Origin
    hostnames: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    access: Access | None = None
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Objective:
    """How urgent requests are that name it in ``x-llm-d-inference-objective``."""

    name: str
    namespace: str
    pool: str
    priority: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Intent:
    """All of it. ``routers``: the oldest first."""

    routers: tuple[Router, ...] = ()
    objectives: tuple[Objective, ...] = ()
