"""The command line of ``epp serve``: upstream's flags in Go's spellings, and a few of our own.

Place:   called by epp.commands.serve with the arguments; ``markdown`` writes docs/flags.md.
Ignores: files and the environment (main passes the variables that count).
Rule:    FLAGS is the only list. A flag is given effect or, if charts write it and nobody misses it, accepted
         with a line in the log; never silently ignored. A value that cannot count is refused with the remedy.
Source:  pkg/epp/server/options.go of llm-d-router v0.10 and the flags of GIE v1.5.

argparse and not typer: it starts in a tenth of the time, and a picker is restarted under load.
"""

import argparse
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from epp.config import decode, tls_suites
from epp.config.cluster.groups import OLD_POOL_GROUP, POOL_GROUP
from epp.config.cluster.wishes import Wish
from epp.core.durations import duration
from epp.core.pacing import Pace
from epp.core.scoring import read_target


class UsageError(Exception):
    """A mistake on the command line: one line that names the flag and the remedy; exit status 2."""


class HelpRequested(Exception):
    """``--help``: the text is for standard output, exit status 0."""


class Works(enum.Enum):
    """What this version does with a flag."""

    YES = "works"
    IDLE = "accepted"
    """It may be written, and a line in the log says that it does nothing."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``note``: what upstream does not say; of one without effect: the remedy."""

    name: str
    read: Callable[[str], Any]
    default: Any
    help: str
    _: KW_ONLY
    metavar: str = ""
    shown: str = ""
    """The default as people read it, where it is not simply ``default``."""
    note: str = ""
    harmless: tuple[Any, ...] = ()
    """Values of a flag without effect that ask for what happens anyway."""
    least: str = ""
    """The smallest value, as people write it; empty: any."""
    most: str = ""
    works: Works = Works.YES
    group: str = ""
    adds_up: bool = False
    """Given several times it is all of them, where others are as given last."""

    @property
    def is_switch(self) -> bool:
        return self.read is _boolean

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def range(self) -> str:
        """What values it takes, in words; empty: any."""
        if self.most:
            return f"from {self.least} to {self.most}"
        return f"at least {self.least}" if self.least else ""

    def value(self, text: str) -> Any:
        """What ``text`` says; ValueError with the remedy."""
        value = self.read(text)
        low, high = (bound and self.read(bound) for bound in (self.least, self.most))
        if (self.least and value < low) or (self.most and value > high):
            raise ValueError(f"must be {self.range}, got {text}")
        return value


# --- reading values, as Go does ----------------------------------------------------------------------

_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError(f'"{text}" is neither true nor false: write true or false')
    return _BOOLEANS[text]


def _text(text: str) -> str:
    return text


def port_number(text: str) -> int:
    """A port to listen on or to ask; ValueError."""
    value = _integer(text)
    if not 0 <= value <= 65535:
        raise ValueError(f"{value} is no port: give a number from 0 to 65535 (0: one that is free)")
    return value


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def _target_ports(text: str) -> tuple[int, ...]:
    ports = tuple(_integer(part) for part in text.split(","))
    for port in ports:
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is no port: give numbers from 1 to 65535, as 8000,8001")
    return ports


def _pool(text: str) -> tuple[Wish, ...]:
    name, equals, port = text.partition("=")
    namespace, _, own = name.rpartition("/")
    _check_names(namespace, own)
    return (Wish(namespace=namespace, name=own, port=port_number(port) if equals else None),)


def _pool_service(text: str) -> tuple[Wish, ...]:
    namespace, _, own = text.rpartition("/")
    _check_names(namespace, own)
    return (Wish(namespace=namespace, service=own),)


def _check_names(namespace: str, name: str) -> None:
    for each in (namespace, name) if namespace else (name,):
        if not re.fullmatch(_OBJECT_NAME, each, re.ASCII):
            raise ValueError(f"no object in Kubernetes can be called {each!a}: write NAMESPACE/NAME")


def _duration(text: str) -> float:
    seconds = duration(text)
    if seconds is None and re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f'"{text}" has no unit: write, for example, {text}s or {text}ms')
    if seconds is None:
        raise ValueError(f'"{text}" is no duration: write, for example, 50ms, 2s or 1m30s')
    return seconds


def _size(text: str) -> int:
    """Kubernetes' quantities, and a B after them, as upstream allows: ``10MiB``, ``25M``, ``4194304``."""
    stripped = text.strip()
    size = decode.quantity(stripped[:-1] if stripped[-1:] in {"b", "B"} else stripped)
    if size is None or size <= 0:
        raise ValueError(f'"{text}" is no size: write, for example, 10MiB, 25MB or 4194304')
    return size


def _suites(text: str) -> tls_suites.Suites:
    return tls_suites.read(text)


def _unquoted(text: str) -> str:
    """Upstream's charts have quotes inside some values, where YAML does not take them away."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _metrics_path(text: str) -> str:
    path = _unquoted(text)
    try:
        read_target(path)
    except ValueError as fault:
        raise ValueError(f"{text!a} is no path of metrics: {fault}") from None
    return path


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f'"{text}" is none of {", ".join(choices)}')
        return text

    return read


def _zap(*choices: str) -> Callable[[str], str]:
    """The same, however it is capitalised, as zap reads it."""
    read = _choice(*choices)
    return lambda text: read(text.lower())


def _level(text: str) -> str:
    """zap's levels: a name, or a verbosity from 1."""
    if text.lower() in {"debug", "info", "error", "panic"} or re.fullmatch(r"[1-9]\d?", text, re.ASCII):
        return text.lower()
    raise ValueError(f'"{text}" is none of debug, info, error, panic, and no number from 1 to 99')


# --- the flags ---------------------------------------------------------------------------------------

_OTHER_PORTS = ("grpc-health-port", "metrics-port")
_LEGACY_METRICS = (
    *("total-queued-requests-metric", "total-running-requests-metric", "kv-cache-usage-percentage-metric"),
    *("lora-info-metric", "cache-info-metric"),
)
_LEGACY = (
    "as upstream's without the gate enableLegacyMetrics: an engine's metrics are found by looking, others are"
    " named in engineConfigs of core-metrics-extractor"
)
_ENCODINGS = _zap("epoch", "millis", "nano", "iso8601", "rfc3339", "rfc3339nano")
_TLS_VERSIONS = _choice("VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13")
_MOST_TARGET_PORTS = 8
"""As an InferencePool has."""


def _group(name: str, *flags: Flag, works: Works = Works.YES, note: str = "") -> tuple[Flag, ...]:
    """Flags under one heading of the help."""
    return tuple(replace(flag, group=name, works=works, note=flag.note or note) for flag in flags)


_SERVING = _group(
    "Serving",
    Flag("grpc-port", port_number, 9002, "ext_proc, for the gateway"),
    Flag("secure-serving", _boolean, True, "serve TLS; false: plaintext HTTP/2"),
    Flag("cert-path", _text, "", "directory with tls.crt and tls.key; else self-signed", metavar="DIR"),
    Flag(
        *("enable-cert-reload", _boolean, False, "take over a changed certificate within a second"),
        note="that of --cert-path; that of --metrics-cert-dir is taken over in any case, and both at SIGHUP",
    ),
    Flag(
        *("tls-min-version", _TLS_VERSIONS, "VersionTLS12", "oldest TLS version to accept"),
        metavar="VERSION",
        note="VersionTLS10 to VersionTLS13; one older than VersionTLS12 is never accepted; grpcio cannot be"
        " told to refuse that",
    ),
    Flag(
        *("tls-cipher-suites", _suites, tls_suites.Suites(), "what TLS 1.2 may be spoken with"),
        metavar="SUITES",
        shown="OpenSSL's own choice",
        note="a comma list of Go's names; insecure ones are refused; those of TLS 1.3 are always on, and"
        " where only they are named TLS 1.2 is off; grpcio cannot be told",
    ),
    Flag(
        *("drain-timeout", _duration, 30.0, "how long to go on after SIGTERM"),
        shown="30s",
        least="0s",
        most="24h",
        note="in Kubernetes how long requests are still taken, as upstream; else how long open ones may last",
    ),
    Flag(
        *("ha-enable-leader-election", _boolean, False, "of several replicas only one is ready"),
        note="needs Kubernetes; see kubernetes.md",
    ),
    Flag(
        *("grpc-max-recv-msg-size", _size, None, "largest message from the gateway"),
        metavar="SIZE",
        least="64KiB",
        shown="64MiB and headers",
        note="upstream's default is gRPC's 4 MiB, over which large prompts fail",
    ),
    Flag(
        *("grpc-max-send-msg-size", _size, None, "largest message to the gateway"),
        metavar="SIZE",
        least="64KiB",
        shown="no limit",
    ),
    Flag(
        *("max-buffered-bytes", _size, 2**30, "request bodies held at once; over it clients get a 503"),
        metavar="SIZE",
        shown="1GiB",
        least="1MiB",
        note="not an upstream flag; below 64MiB large bodies never find room; messages whose rest is still"
        " on its way may hold as much again",
    ),
    Flag(
        *("server", _choice("fast", "grpcio"), "fast", "who speaks HTTP/2: our own driver, or gRPC's"),
        metavar="DRIVER",
        note="not an upstream flag; gRPC's logs nothing of a gateway that speaks TLS to a plaintext port, or"
        " plaintext to a TLS one",
    ),
    Flag(
        *("response-phase", _choice("full", "headers", "none"), "full", "how much of the answers to look at"),
        metavar="PART",
        note="not an upstream flag; full, headers or none; less than full saves work and costs figures, see"
        " gateways.md; no effect where bodies come in FULL_DUPLEX_STREAMED, as from Envoy AI Gateway, Istio,"
        " kgateway and agentgateway, because Envoy would lose the rest of an answer: turn the body off there",
    ),
)
_POOL = _group(
    "Pool and configuration",
    Flag(
        *("endpoints-file", _text, "", "list of servers, followed when it changes"),
        metavar="FILE",
        note="not an upstream flag; stands for a file-discovery plugin with watchFile: true",
    ),
    Flag("config-file", _text, "", "EndpointPickerConfig", metavar="FILE"),
    Flag("config-text", _text, "", "the same, as text", metavar="YAML"),
    Flag(
        *("pool-name", _text, "", "the InferencePool to follow, and the pool's name in metrics"),
        note="only the latter with --endpoints-file or a file-discovery plugin, unless --kubernetes is given",
    ),
    Flag(
        *("pool-namespace", _text, "", "its namespace, and that of endpoints that name none"),
        shown='$NAMESPACE, "default"',
    ),
    Flag(
        *("pool-group", _choice(POOL_GROUP, OLD_POOL_GROUP), POOL_GROUP, "its API group"),
        metavar="GROUP",
        note=f"or {OLD_POOL_GROUP}: InferencePools of v1alpha2, which clusters up to GIE v1.4 may have",
    ),
    Flag(
        *("endpoint-selector", _text, "", "follow the pods that this label selector finds, without a pool"),
        metavar="SELECTOR",
        note="in --pool-namespace; instead of --pool-name; the pool is called as the picker's Deployment in"
        " metrics, which $POD_NAME tells",
    ),
    Flag(
        *("endpoint-target-ports", _target_ports, (), "on which ports those pods serve"),
        metavar="PORTS",
        adds_up=True,
        note=f"up to {_MOST_TARGET_PORTS}, as 8000,8001",
    ),
    Flag(
        *("pool", _pool, (), "serve this InferencePool as well; to be given once for each"),
        metavar="[NAMESPACE/]NAME[=PORT]",
        adds_up=True,
        note="not an upstream flag; on PORT, else where its endpointPickerRef says that its picker is; see"
        " kubernetes.md",
    ),
    Flag(
        *("pool-service", _pool_service, (), "serve every InferencePool that names this Service as picker"),
        metavar="[NAMESPACE/]NAME",
        adds_up=True,
        note="not an upstream flag; each on the port that its endpointPickerRef gives; they come and go"
        " without a restart",
    ),
    Flag(
        *("kubernetes", _boolean, None, "follow the InferencePool --pool-name"),
        shown="true unless servers are listed",
        note="not an upstream flag; with --endpoints-file as well: its servers beside the pool's",
    ),
    Flag(
        *("allow-experimental-plugins", _boolean, False, "take plugin types that upstream calls alpha"),
        note="what they do may change with any version",
    ),
    Flag("disable-endpoint-subset-filter", _boolean, False, "ignore the gateway's subset hint"),
    Flag(
        *("emit-endpoint-scores", _boolean, False, "tell the gateway what each endpoint scored"),
        note="x-gateway-destination-endpoint-scores in dynamic metadata, namespace envoy.lb",
    ),
    Flag(
        *("destinations", _choice("single", "ordered"), "single", "how many endpoints an answer names"),
        metavar="HOW",
        note="not an upstream flag; single: one (or a picker's maxNumOfEndpoints); ordered: up to 3, best"
        " first, for gateways that try one after the other, which not all do: see gateways.md",
    ),
)
_OPERATION = _group(
    "Health, metrics and logs",
    Flag("grpc-health-port", port_number, 9003, "grpc.health.v1, plaintext"),
    Flag("health-checking", _boolean, False, "serve grpc.health.v1 on --grpc-port as well"),
    Flag("metrics-port", port_number, 9090, "/metrics, /healthz, /readyz, /debug/endpoints, /debug/picks"),
    Flag(
        *("metrics-endpoint-auth", _boolean, None, "show pages to those only whom Kubernetes lets get them"),
        shown="true with Kubernetes",
        note="all but /healthz and /readyz: TokenReview, then SubjectAccessReview; without Kubernetes nobody"
        " can be asked: see --metrics-client-ca-file",
    ),
    Flag(
        *("enable-grpc-stream-metrics", _boolean, False, "count and time ext_proc streams"),
        note="llm_d_epp_extproc_streams_total, llm_d_epp_extproc_stream_duration_seconds",
    ),
    Flag(
        "metrics-cert-dir",
        _text,
        "",
        "serve --metrics-port over TLS with this tls.crt, tls.key",
        metavar="DIR",
    ),
    Flag(
        "metrics-client-ca-file",
        _text,
        "",
        "admit only clients with a certificate of this CA",
        metavar="FILE",
    ),
    Flag(
        *("v", _integer, None, "verbosity: to 2 a line for each request, from 3 on inner steps"),
        metavar="N",
        shown="2",
        least="0",
        note="wins over --zap-log-level",
    ),
    Flag(
        "zap-log-level",
        _level,
        None,
        "debug, info, error, panic or a verbosity",
        metavar="LEVEL",
        shown="info",
    ),
    Flag(
        *("zap-encoder", _zap("json", "console"), None, "form of the log lines: json or console"),
        metavar="FORM",
        shown="console on a terminal, else json",
    ),
    Flag("zap-devel", _boolean, False, "for developers: console, debug, tracebacks from warnings on"),
    Flag(
        *(
            "zap-stacktrace-level",
            _zap("info", "error", "panic"),
            None,
            "from where on lines carry tracebacks",
        ),
        metavar="LEVEL",
        shown="error",
    ),
    Flag(
        *("zap-time-encoding", _ENCODINGS, "rfc3339", "form of the time in json lines"),
        metavar="FORM",
        note="one of epoch, millis, nano, iso8601, rfc3339 (with milliseconds here), rfc3339nano",
    ),
)
_READING = _group(
    "Reading the servers",
    Flag(
        *("refresh-metrics-interval", _duration, 0.05, "shortest time between two readings of one server"),
        shown="50ms",
        note="at least 50ms, at most 3/4 of --metrics-staleness-threshold; the time grows when there is no"
        " traffic",
    ),
    Flag(
        *("metrics-staleness-threshold", _duration, 2.0, "age at which a reading counts as unknown"),
        shown="2s",
        least="67ms",
        most="24h",
        note="upstream applies it to the pool gauges only, here choosing follows it as well; below 2s"
        " servers at rest are read more often",
    ),
)
_SERVERS = _group(
    "Reading the servers",
    Flag(
        *(
            "model-server-metrics-scheme",
            _choice("http", "https"),
            "http",
            "how servers are asked for metrics",
        ),
        metavar="SCHEME",
        note="http or https; this and the three flags below are defaults of the parameters of"
        " metrics-data-source, which win",
    ),
    Flag(
        *("model-server-metrics-path", _metrics_path, "/metrics", "where they show them"),
        metavar="PATH",
        note="/metrics: where the server's engine does",
    ),
    Flag(
        *("model-server-metrics-port", port_number, 0, "on which port they show them"),
        shown="the serving port",
    ),
    Flag(
        "model-server-metrics-https-insecure-skip-verify",
        _boolean,
        True,
        "with https: believe any certificate",
    ),
)
_TRACING = _group(
    "Tracing",
    Flag(
        *("tracing", _boolean, True, "make OpenTelemetry spans where the environment names an exporter"),
        note="OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT; upstream prints spans where neither is"
        " set",
    ),
)
_IDLE = _group(
    "Accepted, without effect",
    Flag(
        *("enable-pprof", _boolean, True, "Go's profiler: there is none in a Python process"),
        note="attach py-spy to the process instead",
        harmless=(False,),
        shown="true upstream",
    ),
    Flag(
        *("refresh-prometheus-metrics-interval", _duration, 5.0, "greatest age of the pool gauges"),
        shown="5s upstream",
        least="0s",
        note="the pool gauges are computed when /metrics is read",
    ),
    *(Flag(name, _text, "", "what an engine calls this", note=_LEGACY) for name in _LEGACY_METRICS),
    works=Works.IDLE,
)
FLAGS: tuple[Flag, ...] = (
    *(*_SERVING, *_POOL, *_OPERATION),
    *(*_READING, *_SERVERS, *_TRACING, *_IDLE),
)
_BY_NAME = {flag.name: flag for flag in FLAGS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeFlags:
    """The command line, validated. Durations [s], sizes [bytes]; ports may be 0 (the system chooses)."""

    server: str
    """The driver of the gRPC ports: ``fast`` or ``grpcio``."""
    grpc_port: int
    secure_serving: bool
    cert_path: str
    enable_cert_reload: bool
    tls_min_version: str
    """VersionTLS10 to VersionTLS13; nothing below VersionTLS12 is served."""
    tls_cipher_suites: tls_suites.Suites
    drain_timeout: float
    ha_enable_leader_election: bool
    grpc_max_recv_msg_size: int | None
    """None: large enough for the largest body."""
    grpc_max_send_msg_size: int | None
    """None: no limit."""
    max_buffered_bytes: int
    response_phase: str
    """``full``, ``headers`` or ``none``."""
    endpoints_file: str
    config_file: str
    config_text: str
    pool_name: str
    pool_namespace: str
    pool_group: str
    pool_title: str
    """What metrics call the pool."""
    endpoint_selector: str
    """Empty: there is a pool, or a list."""
    endpoint_target_ports: tuple[int, ...]
    """Each once."""
    wishes: tuple[Wish, ...]
    """Pools that have ports of their own."""
    kubernetes: bool | None
    """None: as ``follows_kubernetes`` finds."""
    allow_experimental_plugins: bool
    disable_endpoint_subset_filter: bool
    emit_endpoint_scores: bool
    destinations: str
    """``single`` or ``ordered``."""
    grpc_health_port: int
    health_checking: bool
    metrics_port: int
    metrics_endpoint_auth: bool | None
    """None: with Kubernetes."""
    enable_grpc_stream_metrics: bool
    tracing: bool
    """Spans are made if the environment says where they go."""
    metrics_cert_dir: str
    metrics_client_ca_file: str
    refresh_metrics_interval: float
    metrics_staleness_threshold: float
    model_server_metrics_scheme: str
    model_server_metrics_path: str
    model_server_metrics_port: int
    """0: the serving port."""
    model_server_metrics_https_insecure_skip_verify: bool
    idle: tuple[str, ...]
    """One line each: what was written and does nothing."""
    verbosity: int
    """zap's: 0 to 2 the request lines, from 3 on inner steps; -1 errors only, -2 panics only."""
    log_encoder: str | None
    """``json``, ``console``, or None: by what standard error is."""
    log_time_encoding: str
    stacktrace_level: str
    """``info``, ``warn``, ``error`` or ``panic``."""


# --- from arguments to settings ----------------------------------------------------------------------


def normalise(arguments: Sequence[str], switches: frozenset[str], known: frozenset[str]) -> list[str]:
    """Every spelling that Go accepts as ``--name=value``; what is no known flag stays as it is."""
    normal: list[str] = []
    switch = ""  # it stands just before, without a value
    rest = iter(arguments)
    for argument in rest:
        if switch and argument in _BOOLEANS:
            raise UsageError(f"--{switch}: a switch has its value after =: write --{switch}={argument}")
        switch = ""
        if argument == "--":  # nothing after it is a flag, and we take nothing else
            for extra in rest:
                raise UsageError(f'unexpected argument "{extra}"')
            break
        verbosity = re.fullmatch(r"-v(\d+)", argument, re.ASCII)
        if verbosity:
            normal.append(f"--v={verbosity[1]}")
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        if not 1 <= len(argument) - len(argument.lstrip("-")) <= 2 or name not in known:
            normal.append(argument)
        elif equals:
            normal.append(f"--{name}={value}")
        elif name in switches:
            switch = name
            normal.append(f"--{name}=true")
        else:
            following = next(rest, None)
            if following is None or _is_flag(following, known):
                but = f", and {following} is the next flag" if following else ""
                raise UsageError(f"--{name}: needs a value: --{name}={_placeholder(_BY_NAME[name])}{but}")
            normal.append(f"--{name}={following}")
    return normal


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> ServeFlags:
    """Read the command line; UsageError or HelpRequested when there is nothing to serve."""
    switches = frozenset(flag.name for flag in FLAGS if flag.is_switch)
    normal = normalise(arguments, switches, frozenset(_BY_NAME))
    if any(argument in {"-h", "-help", "--help"} for argument in normal):  # and not a flag's value
        raise HelpRequested(help_text())
    given = _given(normal)
    values = {flag.key: given.get(flag.name, flag.default) for flag in FLAGS}
    if not values["pool_namespace"]:
        values["pool_namespace"] = environment.get("NAMESPACE") or "default"
    if not re.fullmatch(_NAMESPACE, values["pool_namespace"], re.ASCII):
        source = "--pool-namespace" if "pool-namespace" in given else "$NAMESPACE"
        raise UsageError(
            f"{source}: no namespace can be called {values['pool_namespace']!a}: write at most 63 lower-case"
            ' letters, digits and "-", with a letter or digit at both ends'
        )
    values["endpoint_target_ports"] = tuple(dict.fromkeys(values["endpoint_target_ports"]))
    values["wishes"] = tuple(
        replace(wish, namespace=wish.namespace or values["pool_namespace"])
        for wish in (*values["pool"], *values["pool_service"])
    )
    values["pool_title"] = values["pool_name"] or _deployment(environment.get("POD_NAME", ""))
    flags = ServeFlags(
        **{name: values[name] for name in ServeFlags.__slots__ if name in values},
        **_logging(values),
        idle=_idle(given),
    )
    _check(flags)
    return flags


def _deployment(pod: str) -> str:
    """Whose pod it is; the pod itself, where its name is none that a Deployment gives."""
    whole = re.fullmatch(r"(.+)-[a-z0-9]{1,10}-[a-z0-9]{5}", pod, re.ASCII)
    return whole[1] if whole else pod


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were written, with their values. A scalar written twice counts as written last."""
    found, unknown = _parser().parse_known_args(list(arguments))
    for argument in unknown:
        raise UsageError(_not_understood(argument))
    given: dict[str, Any] = {}
    for flag in FLAGS:
        # argparse makes an empty list of the value "--"
        texts = ["--" if isinstance(text, list) else text for text in getattr(found, flag.key) or []]
        try:
            values = [flag.value(text) for text in texts]
        except ValueError as fault:
            raise UsageError(f"--{flag.name}: {fault}") from fault
        if values:
            given[flag.name] = sum(values, ()) if flag.adds_up else values[-1]
    return given


def _idle(given: Mapping[str, Any]) -> tuple[str, ...]:
    """What to say of flags that do nothing; those that are about one thing are one line."""
    found: dict[str, list[str]] = {}
    for name, value in given.items():
        flag = _BY_NAME[name]
        if flag.works is Works.IDLE and value not in flag.harmless:
            found.setdefault(flag.note, []).append(f"--{name}")
    return tuple(f"{', '.join(names)}: no effect: {note}" for note, names in found.items())


def _check(flags: ServeFlags) -> None:
    """What no flag can see for itself."""
    if flags.config_file and flags.config_text:
        raise UsageError("--config-file, --config-text: both are given: leave one out")
    if not (flags.config_file or flags.config_text):
        check_discovery(flags, config_has_discovery=False)
    try:
        Pace.of(floor=flags.refresh_metrics_interval, stale_after=flags.metrics_staleness_threshold)
    except ValueError as fault:
        raise UsageError(f"--refresh-metrics-interval: {fault}") from fault
    if flags.metrics_client_ca_file and not flags.metrics_cert_dir:
        raise UsageError("--metrics-client-ca-file: needs --metrics-cert-dir")
    if flags.server == "grpcio" and flags.secure_serving:
        if flags.tls_min_version == "VersionTLS13":
            raise UsageError(
                "--tls-min-version: VersionTLS13 needs --server=fast: gRPC cannot refuse TLS 1.2"
            )
        if flags.tls_cipher_suites.names:
            raise UsageError("--tls-cipher-suites: needs --server=fast: gRPC cannot be told for one port")
    _check_pools(flags)


def _check_ports(flags: ServeFlags, *, has_own_pool: bool) -> None:
    taken: dict[int, str] = {}
    ports = ("grpc-port", *_OTHER_PORTS) if has_own_pool else _OTHER_PORTS
    own = [(flag, getattr(flags, flag.replace("-", "_"))) for flag in ports]
    for flag, port in (*own, *(("pool", wish.port) for wish in flags.wishes)):
        if port and port in taken:
            raise UsageError(f"--{taken[port]}, --{flag}: both are {port}: give each its own")
        taken[port] = flag


def _check_pools(flags: ServeFlags) -> None:
    if flags.wishes and flags.kubernetes is False:
        raise UsageError("--pool, --pool-service: need Kubernetes: leave out --kubernetes=false")
    names = [(wish.namespace, wish.name or f"Service {wish.service}") for wish in flags.wishes]
    names += [(flags.pool_namespace, flags.pool_name)] if flags.pool_name else []
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--pool, --pool-service, --pool-name: {'/'.join(name)} is given twice")


_DISCOVERY_REMEDY = (
    "give --endpoints-file FILE, a file-discovery plugin in --config-file or --config-text, or --pool-name"
    " for an InferencePool in Kubernetes"
)
_OBJECT_NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
"""A DNS-1123 subdomain, as Kubernetes has them."""
_NAMESPACE = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""A DNS-1123 label."""
_MOST_NAME = 253


def lease(flags: ServeFlags) -> tuple[str, str]:
    """Namespace and name of the Lease, upstream's: by the own pool, the Service of several, or the first.

    Where there is no own pool, the namespace is still ours: a picker need not write in those of its pools.
    """
    namespace, subject = flags.pool_namespace, flags.pool_title
    if not (flags.pool_name or flags.endpoint_selector):
        first = min(flags.wishes, key=lambda wish: not wish.service)
        namespace, subject = first.namespace, first.service or first.name
    return flags.pool_namespace, f"epp-{namespace}-{subject}.llm-d.ai"


def has_own_pool(flags: ServeFlags, *, config_has_discovery: bool) -> bool:
    """Whether there is a pool on --grpc-port, besides those that have ports of their own."""
    return config_has_discovery or bool(flags.pool_name or flags.endpoint_selector or flags.endpoints_file)


def follows_kubernetes(flags: ServeFlags, *, config_has_discovery: bool) -> bool:
    """Whether endpoints come from an InferencePool."""
    if flags.endpoint_selector:
        return True
    if flags.kubernetes is None:
        return bool(flags.pool_name) and not (flags.endpoints_file or config_has_discovery)
    return flags.kubernetes


def check_discovery(flags: ServeFlags, *, config_has_discovery: bool) -> None:
    """Once the configuration is read, if there is one: it must be clear where the servers come from."""
    _check_selector(flags)
    _check_ports(flags, has_own_pool=has_own_pool(flags, config_has_discovery=config_has_discovery))
    _check_lease(flags)
    if flags.endpoints_file and config_has_discovery:
        raise UsageError("--endpoints-file: the configuration has a file-discovery plugin: leave one out")
    if follows_kubernetes(flags, config_has_discovery=config_has_discovery):
        if not flags.pool_name and not flags.endpoint_selector:
            raise UsageError("--kubernetes: needs --pool-name, the InferencePool to follow")
        if flags.pool_name and not re.fullmatch(_OBJECT_NAME, flags.pool_name, re.ASCII):
            raise UsageError(
                f"--pool-name: no object in Kubernetes can be called {flags.pool_name!a}: write lower-case"
                ' letters, digits, "-" and ".", with a letter or digit at both ends'
            )
    elif flags.ha_enable_leader_election and not flags.wishes:
        raise UsageError(
            "--ha-enable-leader-election: needs Kubernetes, where the Lease is: leave it out, or follow a"
            " pool with --pool-name"
        )
    elif not flags.endpoints_file and not config_has_discovery and not flags.wishes:
        has_config = flags.config_file or flags.config_text
        found = "the configuration has no file-discovery plugin: " if has_config else ""
        raise UsageError(f"no servers: {found}{_DISCOVERY_REMEDY}")


def _check_lease(flags: ServeFlags) -> None:
    if not flags.ha_enable_leader_election or not (
        flags.pool_name or flags.endpoint_selector or flags.wishes
    ):
        return
    _, name = lease(flags)
    if len(name) > _MOST_NAME:
        raise UsageError(
            f"--ha-enable-leader-election: a Lease cannot be called {name}: shorten the pool's name"
        )


def _check_selector(flags: ServeFlags) -> None:
    ports = flags.endpoint_target_ports
    if not flags.endpoint_selector:
        if ports:
            raise UsageError("--endpoint-target-ports: needs --endpoint-selector; a pool has targetPorts")
        return
    if flags.pool_name:
        raise UsageError("--pool-name, --endpoint-selector: both are given: leave one out")
    if flags.kubernetes is False:
        raise UsageError("--endpoint-selector: needs Kubernetes: leave out --kubernetes=false")
    if not 1 <= len(ports) <= _MOST_TARGET_PORTS:
        raise UsageError(
            f"--endpoint-target-ports: --endpoint-selector needs from 1 to {_MOST_TARGET_PORTS} of them, got"
            f" {len(ports)}"
        )


def without_effect(
    flags: ServeFlags, *, in_kubernetes: bool = True, has_own_pool: bool = True
) -> tuple[str, ...]:
    """One line each, for the log: what was written and does nothing, here as upstream."""
    told = list(flags.idle)
    if flags.grpc_port != _BY_NAME["grpc-port"].default and not has_own_pool:
        told.append("--grpc-port has no effect: every pool has a port of its own")
    if flags.metrics_endpoint_auth and not in_kubernetes:
        told.append(
            "--metrics-endpoint-auth has no effect without Kubernetes, which says who may see the pages: see"
            " --metrics-client-ca-file"
        )
    if flags.cert_path and not flags.secure_serving:
        told.append("--cert-path has no effect with --secure-serving=false")
    if flags.enable_cert_reload and not flags.cert_path:
        told.append("--enable-cert-reload has no effect without --cert-path")
    if not (flags.secure_serving or flags.metrics_cert_dir):
        told += [
            f"--{name} has no effect with --secure-serving=false and without --metrics-cert-dir"
            for name in ("tls-min-version", "tls-cipher-suites")
            if getattr(flags, _BY_NAME[name].key) != _BY_NAME[name].default
        ]
    return tuple(told)


_VERBOSITY = {"debug": 3, "info": 2, "error": -1, "panic": -2}


def _logging(values: Mapping[str, Any]) -> dict[str, Any]:
    """-v, zap's flags and zap's development defaults, as one setting each."""
    devel = values["zap_devel"]
    level = values["zap_log_level"] or ("debug" if devel else "info")
    named = _VERBOSITY[level] if level in _VERBOSITY else int(level)
    return {
        "verbosity": named if values["v"] is None else max(0, values["v"]),
        "log_encoder": values["zap_encoder"] or ("console" if devel else None),
        "log_time_encoding": values["zap_time_encoding"],
        "stacktrace_level": values["zap_stacktrace_level"] or ("warn" if devel else "error"),
    }


def _not_understood(argument: str) -> str:
    written = argument.partition("=")[0]
    name = written.lstrip("-")
    if not name or not argument.startswith("-"):
        return f'unexpected argument "{argument}": there are flags only, see epp serve --help'
    import difflib  # noqa: PLC0415 (only a mistake needs it)

    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    hint = f"did you mean --{close[0]}?" if close else "see epp serve --help"
    return f"{written}: unknown flag, {hint}"


def _is_flag(word: str, known: frozenset[str]) -> bool:
    """A known flag where a value should be; ``-v`` and the like may be values."""
    name = word.lstrip("-").partition("=")[0]
    return word.startswith("-") and len(name) > 1 and name in known


# --- for people --------------------------------------------------------------------------------------


def _placeholder(flag: Flag) -> str:
    by_reader: dict[Callable[[str], Any], str] = {
        port_number: "PORT",
        _integer: "N",
        _duration: "TIME",
        _boolean: "[=true|false]",
    }
    return flag.metavar or by_reader.get(flag.read, "TEXT")


def _default(flag: Flag) -> str:
    if flag.shown:
        return flag.shown
    return str(flag.default).lower() if flag.is_switch else str(flag.default or "")


class _Form(argparse.HelpFormatter):
    """The same on every terminal and in every test."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def _parser() -> argparse.ArgumentParser:
    """Understands only what ``normalise`` makes; values stay text, so that errors are ours."""
    parser = argparse.ArgumentParser(
        prog="epp serve",
        usage="epp serve (--pool-name NAME | --pool NAME ... | --pool-service NAME"
        " | --endpoint-selector LABELS | --endpoints-file FILE | --config-file FILE) [flags]",
        description="Tell a gateway which inference server should answer each request.",
        epilog=f"Accepted, without effect: {', '.join(f.name for f in FLAGS if f.works is not Works.YES)}.",
        add_help=False,
        formatter_class=_Form,
        allow_abbrev=False,
        exit_on_error=False,
    )
    groups: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        shown = flag.works is Works.YES
        default = _default(flag)
        text = f"{flag.help} (default: {default})" if default else flag.help
        groups[flag.group].add_argument(
            f"--{flag.name}",
            action="append",
            metavar=_placeholder(flag),
            help=text.replace("%", "%%") if shown else argparse.SUPPRESS,
        )
    return parser


def help_text() -> str:
    """What ``epp serve --help`` prints: the flags that work; the others are named at the end."""
    return _parser().format_help()


def markdown() -> str:
    """docs/flags.md, from the same list."""
    lines = [
        "# Flags of `epp serve`",
        "",
        "Every flag of the upstream picker (llm-d-router v0.10, GIE v1.5), and ours. Go's spellings are",
        "understood: `-flag value`, `--flag value`, `--flag=value`, bare switches (`--health-checking`),",
        "`--switch=false`. A value that cannot count stops the start with the remedy. What is only accepted",
        "does nothing, and one line in the log says so.",
        "",
        "Generated from `epp/config/flags.py`:",
        "`python -c 'from epp.config.flags import markdown; print(markdown(), end=\"\")' > docs/flags.md`",
        "",
        "| Flag | Default | Status | Meaning |",
        "|---|---|---|---|",
    ]
    for flag in FLAGS:
        meaning = flag.help
        if flag.note and flag.note != flag.help:
            meaning = f"{flag.help}; {flag.note}"
        if flag.range:
            meaning = f"{meaning}; {flag.range}"
        default = _default(flag)
        lines.append(
            f"| `--{flag.name}` | {default} | {flag.works.value} | {meaning} |".replace("|  |", "| |")
        )
    return "\n".join(lines) + "\n"
