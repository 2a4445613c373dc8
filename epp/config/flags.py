"""The command line of ``epp serve``: upstream's flags in Go's spellings, and a few of our own.

Place:   called by epp.main with the arguments; ``markdown`` writes docs/flags.md.
Ignores: files and the environment (main passes the variables that count).
Rule:    FLAGS is the only list. A flag is given effect or refused with a reason, never ignored; one that
         would change nothing (its value describes what happens anyway) is accepted.
Source:  pkg/epp/server/options.go of llm-d-router v0.10 and the flags of GIE v1.5.

argparse and not typer: it starts in a tenth of the time, and a picker is restarted under load.
"""

import argparse
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from epp.config import decode
from epp.core.pacing import Pace


class UsageError(Exception):
    """A mistake on the command line: one line that names the flag and the remedy; exit status 2."""


class HelpRequested(Exception):
    """``--help``: the text is for standard output, exit status 0."""


class Works(enum.Enum):
    """What this version does with a flag."""

    YES = "works"
    NO = "not supported"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``note``: the reason or remedy if it is refused, else what upstream does not say."""

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
    """Values of a refused flag that ask for what happens anyway."""
    least: str = ""
    """The smallest value, as people write it; empty: any."""
    most: str = ""
    works: Works = Works.YES
    group: str = ""

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


def _port(text: str) -> int:
    value = _integer(text)
    if not 0 <= value <= 65535:
        raise ValueError(f"{value} is no port: give a number from 0 to 65535 (0: one that is free)")
    return value


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def _ports(text: str) -> tuple[int, ...]:
    return tuple(_port(part) for part in text.split(","))


def _duration(text: str) -> float:
    seconds = decode.duration(text)
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

_PODS = "pods are found through an InferencePool, which --pool-name names"
_METRICS_URL = "write metricsURL for each server in the endpoints file"
_LEGACY_METRICS = (
    *("total-queued-requests-metric", "total-running-requests-metric", "kv-cache-usage-percentage-metric"),
    *("lora-info-metric", "cache-info-metric"),
)
_LEGACY = "rejected by upstream as well: name metrics in engineConfigs of core-metrics-extractor"
_ENCODINGS = _zap("epoch", "millis", "nano", "iso8601", "rfc3339", "rfc3339nano")
_TLS_VERSIONS = _choice("VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13")
_POOL_GROUP = "inference.networking.k8s.io"


def _group(name: str, *flags: Flag, works: Works = Works.YES, note: str = "") -> tuple[Flag, ...]:
    """Flags under one heading of the help."""
    return tuple(replace(flag, group=name, works=works, note=flag.note or note) for flag in flags)


_SERVING = _group(
    "Serving",
    Flag("grpc-port", _port, 9002, "ext_proc, for the gateway"),
    Flag("secure-serving", _boolean, True, "serve TLS; false: plaintext HTTP/2"),
    Flag("cert-path", _text, "", "directory with tls.crt and tls.key; else self-signed", metavar="DIR"),
    Flag(
        *("enable-cert-reload", _boolean, False, "take over changed certificates within a second"),
        note="those of --cert-path and --metrics-cert-dir; SIGHUP takes them over in any case",
    ),
    Flag(
        *("tls-min-version", _TLS_VERSIONS, "VersionTLS12", "oldest TLS version to accept"),
        metavar="VERSION",
        note="VersionTLS10 to VersionTLS13; one older than VersionTLS12 is never accepted; grpcio cannot be"
        " told to refuse that",
    ),
    Flag(
        *("drain-timeout", _duration, 30.0, "how long open requests may go on after SIGTERM"),
        shown="30s",
        least="0s",
        most="24h",
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
        *("kubernetes", _boolean, None, "follow the InferencePool --pool-name"),
        shown="true unless servers are listed",
        note="not an upstream flag; with --endpoints-file as well: its servers beside the pool's",
    ),
    Flag("disable-endpoint-subset-filter", _boolean, False, "ignore the gateway's subset hint"),
    Flag(
        *("destinations", _choice("single", "ordered"), "single", "how many endpoints an answer names"),
        metavar="HOW",
        note="not an upstream flag; single: one (or a picker's maxNumOfEndpoints); ordered: up to 3, best"
        " first, for gateways that try one after the other, which not all do: see gateways.md",
    ),
)
_OPERATION = _group(
    "Health, metrics and logs",
    Flag("grpc-health-port", _port, 9003, "grpc.health.v1, plaintext"),
    Flag("health-checking", _boolean, False, "serve grpc.health.v1 on --grpc-port as well"),
    Flag("metrics-port", _port, 9090, "/metrics, /healthz, /readyz, /debug/endpoints, /debug/picks"),
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
    Flag(
        *("refresh-prometheus-metrics-interval", _duration, 5.0, "greatest age of the pool gauges"),
        shown="5s",
        least="0s",
        note="without effect: they are computed when /metrics is read",
    ),
)
_REFUSED = _group(
    "Not supported",
    *(
        Flag(name, read, default, reason, note=reason, harmless=harmless, shown=shown)
        for name, read, default, reason, harmless, shown in (
            (
                *("allow-experimental-plugins", _boolean, False),
                *("none of the plugin types that upstream calls alpha is here", (False,), ""),
            ),
            ("endpoint-selector", _text, "", _PODS, (), ""),
            ("endpoint-target-ports", _ports, (), _PODS, (), ""),
            (
                *("pool-group", _text, _POOL_GROUP),
                *(f"only InferencePools of {_POOL_GROUP} are followed", (_POOL_GROUP,), ""),
            ),
            ("ha-enable-leader-election", _boolean, False, "every replica serves", (False,), ""),
            (
                *("metrics-endpoint-auth", _boolean, False),
                *(
                    "nobody is asked: see --metrics-client-ca-file",
                    (False,),
                    "true upstream, with Kubernetes",
                ),
            ),
            ("emit-endpoint-scores", _boolean, False, "see the scores on /debug/picks", (False,), ""),
            (
                *("enable-grpc-stream-metrics", _boolean, False),
                *("only llm_d_epp_extproc_streams_inflight is there, and always", (False,), ""),
            ),
            (
                *("enable-pprof", _boolean, False),
                *(
                    "Go's profiler has no counterpart; attach py-spy to the process",
                    (False,),
                    "true upstream",
                ),
            ),
            ("tracing", _boolean, False, "no spans are made", (False,), "true upstream"),
            ("tls-cipher-suites", _text, "", "gRPC's own choice of suites is used", ("",), ""),
            *((name, _text, "", _LEGACY, (), "") for name in _LEGACY_METRICS),
            (
                *("model-server-metrics-scheme", _choice("http", "https"), "http"),
                *("write scheme or metricsURL for each server in the endpoints file", ("http",), ""),
            ),
            ("model-server-metrics-path", _text, "/metrics", _METRICS_URL, ("/metrics",), ""),
            ("model-server-metrics-port", _integer, 0, _METRICS_URL, (), ""),
            (
                *("model-server-metrics-https-insecure-skip-verify", _boolean, True),
                *("write caFile for each server in the endpoints file", (True,), ""),
            ),
        )
    ),
    works=Works.NO,
)
FLAGS: tuple[Flag, ...] = (*_SERVING, *_POOL, *_OPERATION, *_READING, *_REFUSED)
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
    drain_timeout: float
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
    kubernetes: bool | None
    """None: as ``follows_kubernetes`` finds."""
    disable_endpoint_subset_filter: bool
    destinations: str
    """``single`` or ``ordered``."""
    grpc_health_port: int
    health_checking: bool
    metrics_port: int
    metrics_cert_dir: str
    metrics_client_ca_file: str
    refresh_metrics_interval: float
    metrics_staleness_threshold: float
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
    _refuse(given)
    values = {flag.key: given.get(flag.name, flag.default) for flag in FLAGS}
    if not values["pool_namespace"]:
        values["pool_namespace"] = environment.get("NAMESPACE") or "default"
    if not decode.is_word(values["pool_namespace"]):
        source = "--pool-namespace" if "pool-namespace" in given else "$NAMESPACE"
        raise UsageError(f"{source}: must be {decode.WORD}, got {values['pool_namespace']!a}")
    flags = ServeFlags(
        **{name: values[name] for name in ServeFlags.__slots__ if name in values}, **_logging(values)
    )
    _check(flags)
    return flags


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
            given[flag.name] = sum(values, ()) if flag.read is _ports else values[-1]
    return given


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        flag = _BY_NAME[name]
        if flag.works is Works.YES or value in flag.harmless:
            continue
        instead = f" or write --{name}=false" if False in flag.harmless else ""
        raise UsageError(f"--{name}: {flag.works.value}: {flag.note}; leave it out{instead}")


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
    if flags.enable_cert_reload and not (flags.cert_path or flags.metrics_cert_dir):
        raise UsageError("--enable-cert-reload: needs --cert-path or --metrics-cert-dir")
    if flags.tls_min_version == "VersionTLS13" and flags.server == "grpcio":
        raise UsageError("--tls-min-version: VersionTLS13 needs --server=fast: gRPC cannot refuse TLS 1.2")
    _check_ports(flags)


def _check_ports(flags: ServeFlags) -> None:
    taken: dict[int, str] = {}
    for flag in ("grpc-port", "grpc-health-port", "metrics-port"):
        port = getattr(flags, flag.replace("-", "_"))
        if port and port in taken:
            raise UsageError(f"--{taken[port]}, --{flag}: both are {port}: give each its own")
        taken[port] = flag


_DISCOVERY_REMEDY = (
    "give --endpoints-file FILE, a file-discovery plugin in --config-file or --config-text, or --pool-name"
    " for an InferencePool in Kubernetes"
)
_OBJECT_NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
"""A DNS-1123 subdomain, as Kubernetes has them."""


def follows_kubernetes(flags: ServeFlags, *, config_has_discovery: bool) -> bool:
    """Whether endpoints come from an InferencePool."""
    if flags.kubernetes is None:
        return bool(flags.pool_name) and not (flags.endpoints_file or config_has_discovery)
    return flags.kubernetes


def check_discovery(flags: ServeFlags, *, config_has_discovery: bool) -> None:
    """Once the configuration is read, if there is one: it must be clear where the servers come from."""
    if flags.endpoints_file and config_has_discovery:
        raise UsageError("--endpoints-file: the configuration has a file-discovery plugin: leave one out")
    if follows_kubernetes(flags, config_has_discovery=config_has_discovery):
        if not flags.pool_name:
            raise UsageError("--kubernetes: needs --pool-name, the InferencePool to follow")
        for flag, name in (("pool-name", flags.pool_name), ("pool-namespace", flags.pool_namespace)):
            if not re.fullmatch(_OBJECT_NAME, name, re.ASCII):
                raise UsageError(f"--{flag}: no object in Kubernetes can be called {name!a}")
    elif not flags.endpoints_file and not config_has_discovery:
        has_config = flags.config_file or flags.config_text
        found = "the configuration has no file-discovery plugin: " if has_config else ""
        raise UsageError(f"no servers: {found}{_DISCOVERY_REMEDY}")


def without_effect(flags: ServeFlags) -> tuple[str, ...]:
    """One line each, for the log: what was written and does nothing, here as upstream."""
    if flags.cert_path and not flags.secure_serving:
        return ("--cert-path has no effect with --secure-serving=false",)
    return ()


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
        _port: "PORT",
        _ports: "PORTS",
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
        usage="epp serve (--pool-name NAME | --endpoints-file FILE | --config-file FILE) [flags]",
        description="Tell a gateway which inference server should answer each request.",
        epilog=f"Refused, see docs/flags.md: {', '.join(f.name for f in FLAGS if f.works is not Works.YES)}.",
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
        "`--switch=false`. A refused flag stops the start with the reason given here, unless its value asks",
        "for what happens anyway.",
        "",
        "Generated from `epp/config/flags.py`:",
        "`python -c 'from epp.config.flags import markdown; print(markdown(), end=\"\")' > docs/flags.md`",
        "",
        "| Flag | Default | Status | Meaning |",
        "|---|---|---|---|",
    ]
    for flag in FLAGS:
        meaning = flag.help
        if flag.note and flag.note != flag.help and flag.works is Works.YES:
            meaning = f"{flag.help}; {flag.note}"
        if flag.range:
            meaning = f"{meaning}; {flag.range}"
        if flag.harmless:
            accepted = ", ".join(f"`{_spelling(value)}`" for value in flag.harmless)
            meaning = f"{meaning}; accepted: {accepted}"
        default = _default(flag)
        lines.append(
            f"| `--{flag.name}` | {default} | {flag.works.value} | {meaning} |".replace("|  |", "| |")
        )
    return "\n".join(lines) + "\n"


def _spelling(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'
