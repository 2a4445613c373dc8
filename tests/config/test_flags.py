"""The command line: Go's spellings in, one validated record or one line of complaint out."""

import re
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config import flags, tls_suites
from epp.config.flags import FLAGS, HelpRequested, ServeFlags, UsageError, Works
from epp.config.tls_suites import INSECURE, TLS12, TLS13

FILE = "--endpoints-file=servers.yaml"


def parse(*arguments: str, **environment: str) -> ServeFlags:
    return flags.parse([FILE, *arguments], environment)


def complaint(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        flags.parse(arguments, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--grpc-port=7"], id="two dashes, equals"),
        pytest.param(["--grpc-port", "7"], id="two dashes, apart"),
        pytest.param(["-grpc-port=7"], id="one dash, equals"),
        pytest.param(["-grpc-port", "7"], id="one dash, apart"),
        pytest.param(["--grpc-port=6", "--grpc-port=7"], id="the last one counts"),
    ],
)
def test_a_value_may_be_spelt_in_all_of_gos_ways(arguments: list[str]) -> None:
    assert parse(*arguments).grpc_port == 7


@pytest.mark.parametrize("text", ["", "=true", "=t", "=T", "=1", "=TRUE", "=True"])
def test_a_switch_is_on(text: str) -> None:
    assert parse(f"--health-checking{text}").health_checking


@pytest.mark.parametrize("text", ["=false", "=f", "=F", "=0", "=FALSE", "=False"])
def test_a_switch_is_off(text: str) -> None:
    assert not parse(f"-secure-serving{text}").secure_serving


@pytest.mark.parametrize(
    "arguments, verbosity",
    [
        ([], 2),
        (["-v", "4"], 4),
        (["-v=4"], 4),
        (["--v=0"], 0),
        (["-v5"], 5),
        (["--zap-log-level=debug"], 3),
        (["--zap-log-level=error"], -1),
        (["--zap-log-level=4"], 4),
        (["--zap-devel"], 3),
        (["--zap-log-level=error", "-v=3"], 3),
    ],
)
def test_verbosity_comes_from_v_and_zap_flags(arguments: list[str], verbosity: int) -> None:
    assert parse(*arguments).verbosity == verbosity


def test_developers_get_console_and_more_tracebacks() -> None:
    found = parse("--zap-devel", "--zap-time-encoding=epoch")
    assert (found.log_encoder, found.stacktrace_level) == ("console", "warn")
    assert found.log_time_encoding == "epoch"
    assert parse("--zap-devel", "--zap-encoder=json", "--zap-stacktrace-level=panic").log_encoder == "json"


def test_zaps_flags_may_be_capitalised() -> None:
    capitals = ["--zap-log-level=ERROR", "--zap-encoder=Json", "--zap-stacktrace-level=Panic"]
    small = ["--zap-log-level=error", "--zap-encoder=json", "--zap-stacktrace-level=panic"]
    found = parse(*capitals, "--zap-time-encoding=ISO8601")
    assert found == parse(*small, "--zap-time-encoding=iso8601") != parse()


def test_a_value_may_begin_with_a_dash() -> None:
    assert parse("--pool-name", "--odd").pool_name == "--odd"


def test_the_deployment_that_upstream_ships_starts() -> None:
    found = flags.parse(
        [
            *(
                "--pool-name",
                "vllm-qwen",
                "--pool-namespace",
                "llm",
                "--pool-group",
                "inference.networking.k8s.io",
            ),
            *("--zap-encoder", "json", "--config-file", "/config/default-plugins.yaml", "--tracing=false"),
            *("--grpc-port", "9002", "--grpc-health-port", "9003", "--metrics-port", "9090", "-v=1"),
            *("--health-checking", "--enable-pprof=false", "--metrics-staleness-threshold", "2s"),
        ],
        {},
    )
    assert (found.pool_name, found.pool_namespace) == ("vllm-qwen", "llm")
    assert found.config_file == "/config/default-plugins.yaml"


def test_the_namespace_comes_from_the_environment() -> None:
    assert parse(NAMESPACE="team-a").pool_namespace == "team-a"
    assert parse("--pool-namespace=b", NAMESPACE="team-a").pool_namespace == "b"
    assert parse().pool_namespace == "default"
    with pytest.raises(UsageError, match=r"^\$NAMESPACE: no namespace can be called 'team a': write"):
        parse(NAMESPACE="team a")


def test_what_has_no_effect_is_told() -> None:
    assert flags.without_effect(parse("--cert-path=/certs")) == ()
    (told,) = flags.without_effect(parse("--cert-path=/certs", "--secure-serving=false"))
    assert told == "--cert-path has no effect with --secure-serving=false"
    (told,) = flags.without_effect(parse("--enable-cert-reload"))
    assert told == "--enable-cert-reload has no effect without --cert-path"
    (told,) = flags.without_effect(parse("--refresh-prometheus-metrics-interval=10s"))
    assert told.startswith("--refresh-prometheus-metrics-interval: no effect: the pool gauges are computed")
    (told,) = flags.without_effect(parse("--metrics-endpoint-auth"), in_kubernetes=False)
    assert told.startswith("--metrics-endpoint-auth has no effect without Kubernetes")
    assert flags.without_effect(parse("--metrics-endpoint-auth"), in_kubernetes=True) == ()


@pytest.mark.parametrize(
    "given", ["--tls-min-version=VersionTLS13", "--tls-cipher-suites=TLS_AES_128_GCM_SHA256"]
)
def test_settings_of_tls_are_told_where_nothing_speaks_it(given: str) -> None:
    (told,) = flags.without_effect(parse(given, "--secure-serving=false"))
    name = given.partition("=")[0]
    assert told == f"{name} has no effect with --secure-serving=false and without --metrics-cert-dir"
    assert flags.without_effect(parse(given)) == ()
    assert flags.without_effect(parse(given, "--secure-serving=false", "--metrics-cert-dir=/certs")) == ()


def test_what_charts_write_and_nobody_misses_is_accepted_and_told() -> None:
    """GIE's chart for SGLang and Triton; its values say --enable-pprof=true."""
    given = [
        '--total-queued-requests-metric="sglang:num_queue_reqs"',
        *("--lora-info-metric", "", "--enable-pprof=true"),
    ]
    profiler, metrics = flags.without_effect(parse(*given))
    assert profiler == "--enable-pprof: no effect: attach py-spy to the process instead"
    assert metrics.startswith("--total-queued-requests-metric, --lora-info-metric: no effect: as upstream's")


@pytest.mark.parametrize(
    "written, openssl, only_tls13",
    [
        ("", "", False),
        (
            "TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            "ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES128-SHA",
            False,
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
            False,
        ),
        ("TLS_AES_128_GCM_SHA256", "", True),
    ],
)
def test_cipher_suites_have_gos_names(written: str, openssl: str, only_tls13: bool) -> None:
    suites = parse(f"--tls-cipher-suites={written}").tls_cipher_suites
    assert (suites.openssl, suites.only_tls13) == (openssl, only_tls13)


NUMBERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": 0xC009,
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": 0xC00A,
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": 0xC013,
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": 0xC014,
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": 0xC02B,
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": 0xC02C,
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": 0xC02F,
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": 0xC030,
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": 0xCCA8,
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": 0xCCA8,
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": 0xCCA9,
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": 0xCCA9,
}
"""Of suites in a handshake, as crypto/tls and IANA have them."""


@pytest.mark.parametrize("name", NUMBERS)
def test_a_suite_of_gos_is_the_same_one_of_openssls(name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(tls_suites.read(name).openssl)
    offered = [suite for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]
    assert [suite["id"] & 0xFFFF for suite in offered] == [NUMBERS[name]]


def test_there_is_no_suite_but_those() -> None:
    assert NUMBERS.keys() == TLS12.keys()


@pytest.mark.parametrize(
    "name",
    [
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_RSA_WITH_RC4_128_SHA",
    ],
)
def test_what_go_calls_insecure_is_refused_as_such(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is insecure: leave it out"):
        tls_suites.read(f"TLS_AES_128_GCM_SHA256,{name}")


@given(text=st.text(max_size=60) | st.lists(st.sampled_from([*TLS12, *TLS13, *INSECURE])).map(",".join))
def test_any_list_of_suites_counts_whole_or_is_refused(text: str) -> None:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if all(part in TLS12 or part in TLS13 for part in parts):
        assert tls_suites.read(text).names == tuple(parts)
        return
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        tls_suites.read(text)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.range], ids=lambda flag: flag.name)
def test_the_bounds_of_a_flag_and_its_default_are_within(flag: flags.Flag) -> None:
    low = flag.value(flag.least)
    assert flag.default is None or low <= flag.default
    assert not flag.most or low < flag.value(flag.most)
    assert flag.default is None or not flag.most or flag.default <= flag.value(flag.most)


@pytest.mark.parametrize(
    "text, size", [("10MiB", 10 << 20), ("25MB", 25_000_000), ("4194304", 4 << 20), ("1Gi", 1 << 30)]
)
def test_sizes_are_quantities_with_or_without_a_b(text: str, size: int) -> None:
    assert parse(f"--grpc-max-recv-msg-size={text}").grpc_max_recv_msg_size == size


def test_durations_are_gos() -> None:
    found = parse("--drain-timeout=1m30s", "--refresh-metrics-interval=100ms")
    assert (found.drain_timeout, found.refresh_metrics_interval) == (90.0, 0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        pytest.param(
            ["--secure-servng=false"],
            "--secure-servng: unknown flag, did you mean --secure-serving?",
            id="misspelt",
        ),
        pytest.param(["--xyzzy"], "--xyzzy: unknown flag, see epp serve --help", id="unknown"),
        pytest.param(
            ["---grpc-port=1"], "---grpc-port: unknown flag, did you mean --grpc-port?", id="three dashes"
        ),
        pytest.param(["-"], 'unexpected argument "-": there are flags only, see epp serve', id="dash"),
        pytest.param(["x.yaml"], 'unexpected argument "x.yaml": there are flags only', id="no flag"),
        pytest.param(["--grpc"], "--grpc: unknown flag", id="no abbreviations"),
        pytest.param(["--grpc-port"], "--grpc-port: needs a value: --grpc-port=PORT", id="value missing"),
        pytest.param(["--grpc-port=x"], '--grpc-port: "x" is not a whole number', id="no number"),
        pytest.param(["--grpc-port=70000"], "--grpc-port: 70000 is no port", id="no port"),
        pytest.param(
            ["--secure-serving=maybe"],
            '--secure-serving: "maybe" is neither true nor false: write true or false',
            id="switch",
        ),
        pytest.param(
            ["--secure-serving", "false"],
            "--secure-serving: a switch has its value after =: write --secure-serving=false",
            id="switch and value apart",
        ),
        pytest.param(
            ["--", "--grpc-port=1"], 'unexpected argument "--grpc-port=1"', id="after the end of flags"
        ),
        pytest.param(
            ["--drain-timeout=30"],
            '--drain-timeout: "30" has no unit: write, for example, 30s',
            id="duration without unit",
        ),
        pytest.param(["--drain-timeout=x"], '--drain-timeout: "x" is no duration', id="no duration"),
        pytest.param(
            ["--drain-timeout=25h"], "--drain-timeout: must be from 0s to 24h, got 25h", id="a day and more"
        ),
        pytest.param(
            ["--drain-timeout=-1s"], "--drain-timeout: must be from 0s to 24h, got -1s", id="negative"
        ),
        pytest.param(
            ["--max-buffered-bytes=1"], "--max-buffered-bytes: must be at least 1MiB, got 1", id="no budget"
        ),
        pytest.param(
            ["--grpc-max-recv-msg-size=65535"],
            "--grpc-max-recv-msg-size: must be at least 64KiB, got 65535",
            id="no message fits",
        ),
        pytest.param(["--grpc-max-send-msg-size=1k"], "must be at least 64KiB, got 1k", id="no answer fits"),
        pytest.param(["-v=-1"], "--v: must be at least 0, got -1", id="verbosity"),
        pytest.param(
            [FILE, "--pool-namespace=a b"],
            "--pool-namespace: no namespace can be called 'a b': write at most 63 lower-case letters, digits",
            id="two words",
        ),
        pytest.param(
            [FILE, "--pool-namespace=Bad_NS"],
            "--pool-namespace: no namespace can be called 'Bad_NS': write at most 63 lower-case letters",
            id="no name of a namespace, without Kubernetes",
        ),
        pytest.param(
            ["--endpoints-file", "--grpc-port", "7"],
            "--endpoints-file: needs a value: --endpoints-file=FILE, and --grpc-port is the next flag",
            id="value forgotten",
        ),
        pytest.param(["--grpc-max-recv-msg-size=1x"], "is no size: write, for example, 10MiB", id="size"),
        pytest.param(["--max-buffered-bytes=0"], '"0" is no size', id="no room at all"),
        pytest.param(["--zap-encoder=xml"], '--zap-encoder: "xml" is none of json, console', id="choice"),
        pytest.param(
            [FILE, "--tls-min-version=VersionTLS13", "--server=grpcio"],
            "--tls-min-version: VersionTLS13 needs --server=fast",
            id="newer TLS than gRPC can ask",
        ),
        pytest.param([], "no servers: give --endpoints-file FILE", id="no servers"),
        pytest.param(["--kubernetes"], "--kubernetes: needs --pool-name", id="which pool"),
        pytest.param(
            ["--pool-name=qwen", "--kubernetes=false"],
            "no servers: give --endpoints-file",
            id="pool as a label",
        ),
        pytest.param(
            ["--pool-name=my_pool"],
            "--pool-name: no object in Kubernetes can be called 'my_pool': write lower-case letters, digits",
            id="no name of an object",
        ),
        pytest.param(
            ["--pool-name=qwen", "--pool-namespace=A"],
            "--pool-namespace: no namespace can be called 'A': write at most 63 lower-case letters, digits",
            id="no name of a namespace",
        ),
        pytest.param([FILE, "--config-file=a", "--config-text=b"], "both are given", id="two configurations"),
        pytest.param(
            [FILE, "--refresh-metrics-interval=49ms"], "must be at least 50ms", id="below the floor"
        ),
        pytest.param(
            [FILE, "--metrics-staleness-threshold=50ms"],
            "--metrics-staleness-threshold: must be from 67ms to 24h, got 50ms",
            id="stale at once",
        ),
        pytest.param(
            [FILE, "--refresh-metrics-interval=200ms", "--metrics-staleness-threshold=250ms"],
            "--refresh-metrics-interval: must be at most three quarters",
            id="stale before the next reading",
        ),
        pytest.param(["--tls-min-version=1.3"], '"1.3" is none of VersionTLS10, Version', id="TLS version"),
        pytest.param(
            [FILE, "--metrics-port=9002"],
            "--grpc-port, --metrics-port: both are 9002: give each its own",
            id="one port for two",
        ),
        pytest.param(
            [FILE, "--metrics-client-ca-file=ca"], "needs --metrics-cert-dir", id="clients without TLS"
        ),
        pytest.param(
            [FILE, "--ha-enable-leader-election"],
            "--ha-enable-leader-election: needs Kubernetes, where the Lease is: leave it out, or follow",
            id="a leader of what",
        ),
        pytest.param(
            [f"--pool-name={'q' * 242}", "--ha-enable-leader-election"],
            ".llm-d.ai: shorten the pool's name",
            id="a Lease of too long a name",
        ),
        pytest.param(
            [FILE, "--tls-cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "--tls-cipher-suites: TLS_RSA_WITH_AES_128_CBC_SHA is insecure: leave it out",
            id="insecure suite",
        ),
        pytest.param(
            [FILE, "--tls-cipher-suites=ECDHE-RSA-AES128-GCM-SHA256"],
            "'ECDHE-RSA-AES128-GCM-SHA256' is no cipher suite of Go, did you mean"
            " TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256?",
            id="OpenSSL's name of a suite",
        ),
        pytest.param(
            [FILE, "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265"],
            "did you mean TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256?",
            id="misspelt suite",
        ),
        pytest.param(
            [FILE, "--tls-cipher-suites=TLS_AES_128_GCM_SHA256,"],
            "'' is no cipher suite of Go: write, for example, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            id="empty suite",
        ),
        pytest.param(
            [FILE, "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "--server=grpcio"],
            "--tls-cipher-suites: needs --server=fast",
            id="suites for gRPC",
        ),
        pytest.param(
            [FILE, "--model-server-metrics-path=metrics"],
            "--model-server-metrics-path: 'metrics' is no path of metrics",
            id="half a path",
        ),
        pytest.param(
            [FILE, "--model-server-metrics-scheme=ftp"], '"ftp" is none of http, https', id="no scheme"
        ),
        pytest.param(
            ["--endpoint-selector=app=vllm"],
            "--endpoint-target-ports: --endpoint-selector needs from 1 to 8 of them, got 0",
            id="pods without ports",
        ),
        pytest.param(
            ["--endpoint-selector=app=vllm", "--endpoint-target-ports=1,2,3,4,5,6,7,8,9"],
            "--endpoint-target-ports: --endpoint-selector needs from 1 to 8 of them, got 9",
            id="nine ports",
        ),
        pytest.param(
            ["--endpoint-selector=app=vllm", "--endpoint-target-ports=0"],
            "--endpoint-target-ports: 0 is no port: give numbers from 1 to 65535, as 8000,8001",
            id="no port",
        ),
        pytest.param(
            ["--endpoint-selector=app=vllm", "--endpoint-target-ports=8000", "--pool-name=qwen"],
            "--pool-name, --endpoint-selector: both are given: leave one out",
            id="pods and a pool",
        ),
        pytest.param(
            ["--endpoint-selector=app=vllm", "--endpoint-target-ports=8000", "--kubernetes=false"],
            "--endpoint-selector: needs Kubernetes: leave out --kubernetes=false",
            id="pods without Kubernetes",
        ),
        pytest.param(
            ["--pool-name=qwen", "--endpoint-target-ports=8000"],
            "--endpoint-target-ports: needs --endpoint-selector; a pool has targetPorts",
            id="ports without pods",
        ),
        pytest.param(
            ["--pool-name=qwen", "--pool-group=example.com"],
            '--pool-group: "example.com" is none of inference.networking.k8s.io, inference.networking.x-k8s',
            id="no group",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(arguments: list[str], message: str) -> None:
    assert message in complaint(*arguments)


@pytest.mark.parametrize(
    "argument",
    [
        "--enable-pprof=false",
        "--ha-enable-leader-election=false",
        "--model-server-metrics-scheme=http",
        "--model-server-metrics-path=/metrics",
    ],
)
def test_what_happens_anyway_may_be_asked_for(argument: str) -> None:
    assert parse(argument) == parse()


@pytest.mark.parametrize(
    "pod, title",
    [
        ("fleet-epp-5d9c7f6b8-x2x4z", "fleet-epp"),  # as upstream: the Deployment's name
        ("fleet-epp-0", "fleet-epp-0"),
        ("", ""),
    ],
)
def test_pods_by_a_selector_are_a_pool_of_the_pickers_name(pod: str, title: str) -> None:
    given = ["--endpoint-selector=app in (a,b)", "--endpoint-target-ports=8000,8001,8000"]
    found = flags.parse(given, {"POD_NAME": pod})
    assert (found.endpoint_selector, found.endpoint_target_ports) == ("app in (a,b)", (8000, 8001))
    assert (found.pool_name, found.pool_title) == ("", title)
    assert flags.follows_kubernetes(found, config_has_discovery=True)
    assert flags.parse(["--pool-name=qwen"], {"POD_NAME": pod}).pool_title == "qwen"


@pytest.mark.parametrize(
    "arguments, config_has_discovery, follows",
    [
        (["--pool-name=qwen"], False, True),
        (["--pool-name=qwen", "--config-text=x"], False, True),
        (["--pool-name=qwen", "--config-text=x"], True, False),
        (["--pool-name=qwen", FILE], False, False),
        (["--pool-name=qwen", FILE, "--kubernetes"], False, True),
        (["--pool-name=qwen", "--config-text=x", "--kubernetes"], True, True),
        ([FILE], False, False),
    ],
)
def test_a_pool_is_followed_unless_servers_are_listed(
    arguments: list[str], config_has_discovery: bool, follows: bool
) -> None:
    given = flags.parse(arguments, {})
    flags.check_discovery(given, config_has_discovery=config_has_discovery)
    assert flags.follows_kubernetes(given, config_has_discovery=config_has_discovery) == follows


@pytest.mark.parametrize(
    "arguments, namespace, name",
    [
        (["--pool-name=qwen", "--pool-namespace=m"], "m", "epp-m-qwen.llm-d.ai"),
        (["--pool-name=qwen", "--pool=m/other=9004"], "default", "epp-default-qwen.llm-d.ai"),
        (["--pool=m/one=9004", "--pool=m/two=9005"], "default", "epp-m-one.llm-d.ai"),
        (["--pool=m/one=9004", "--pool-service=n/epp", "--pool-namespace=n"], "n", "epp-n-epp.llm-d.ai"),
        (
            ["--endpoint-selector=a=b", "--endpoint-target-ports=1", "--pool-namespace=m"],
            "m",
            "epp-m-fleet-epp.llm-d.ai",
        ),
    ],
)
def test_the_lease_is_named_as_upstreams(arguments: list[str], namespace: str, name: str) -> None:
    written = flags.parse(arguments, {"POD_NAME": "fleet-epp-5d9c7f6b8-x2x4z"})
    assert flags.lease(written) == (namespace, name)


def test_a_list_of_servers_comes_from_one_place() -> None:
    by_config = flags.parse(["--config-text=x"], {})
    flags.check_discovery(by_config, config_has_discovery=True)
    flags.check_discovery(parse(), config_has_discovery=False)
    with pytest.raises(UsageError, match="has no file-discovery plugin"):
        flags.check_discovery(by_config, config_has_discovery=False)
    with pytest.raises(UsageError, match="leave one out"):
        flags.check_discovery(parse(), config_has_discovery=True)


@pytest.mark.parametrize("argument", ["-h", "--help", "-help"])
def test_help_shows_every_flag_that_works_and_names_the_others(argument: str) -> None:
    with pytest.raises(HelpRequested) as caught:
        flags.parse([argument], {})
    text = "".join(str(caught.value).split())
    for flag in FLAGS:
        assert f"--{flag.name}" in text if flag.works is Works.YES else flag.name in text


def test_every_flag_that_works_reaches_the_settings() -> None:
    not_fields = {  # read together into verbosity, log_encoder, wishes
        *("v", "zap_log_level", "zap_encoder", "zap_devel", "zap_stacktrace_level", "zap_time_encoding"),
        *("pool", "pool_service"),
    }
    fields = set(ServeFlags.__dataclass_fields__)
    assert {flag.key for flag in FLAGS if flag.works is Works.YES} - not_fields <= fields


def test_the_port_of_the_own_pool_is_free_where_there_is_none() -> None:
    found = flags.parse(["--pool=models/qwen=9002"], {})
    assert flags.without_effect(found, has_own_pool=False) == ()
    with pytest.raises(UsageError, match="--grpc-port, --pool: both are 9002"):
        flags.parse(["--pool=models/qwen=9002", "--pool-name=phi"], {})
    (told,) = flags.without_effect(
        flags.parse(["--pool=models/qwen", "--grpc-port=9010"], {}), has_own_pool=False
    )
    assert told == "--grpc-port has no effect: every pool has a port of its own"


@pytest.mark.parametrize(
    "given, wishes",
    [
        (["--pool=models/qwen"], [("models", "qwen", "", None)]),
        (["--pool=qwen=9012"], [("default", "qwen", "", 9012)]),
        (["--pool-namespace=m", "--pool=a", "--pool", "b=0"], [("m", "a", "", None), ("m", "b", "", 0)]),
        (["--pool-service=models/epp", "--pool=a=1"], [("default", "a", "", 1), ("models", "", "epp", None)]),
    ],
)
def test_pools_of_their_own_are_read(given: list[str], wishes: list[tuple[object, ...]]) -> None:
    found = parse(*given).wishes
    assert [(wish.namespace, wish.name, wish.service, wish.port) for wish in found] == wishes


@pytest.mark.parametrize(
    "given, said",
    [
        (["--pool=Qwen"], "--pool: no object in Kubernetes can be called 'Qwen': write NAMESPACE/NAME"),
        (["--pool=a/b/c"], "--pool: no object in Kubernetes can be called 'a/b': write NAMESPACE/NAME"),
        (["--pool=a=x"], '--pool: "x" is not a whole number'),
        (["--pool=a", "--pool=default/a=1"], "default/a is given twice"),
        (["--pool=a", "--pool-name=a"], "default/a is given twice"),
        (["--pool=a=1", "--pool=b=1"], "--pool, --pool: both are 1: give each its own"),
        (["--pool-service=e", "--pool-service=e"], "default/Service e is given twice"),
        (["--pool=a", "--kubernetes=false"], "--pool, --pool-service: need Kubernetes"),
    ],
)
def test_pools_that_cannot_be(given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse(*given)


def test_the_page_about_flags_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "flags.md"
    assert page.read_text() == flags.markdown(), "write it again with the command it names"


NAMES = st.sampled_from([flag.name for flag in FLAGS])
WORDS = st.one_of(
    NAMES, st.text(max_size=8), st.sampled_from(["true", "0", "50ms", "1Gi", "--", "-", "=", "-v3"])
)
ARGUMENTS = st.builds(
    "".join, st.tuples(st.sampled_from(["", "-", "--", "---"]), WORDS, st.sampled_from(["", "="]), WORDS)
)


def test_two_dashes_are_a_value_like_any_other() -> None:
    with pytest.raises(UsageError, match=r'--grpc-port: "--" is not a whole number'):
        parse("-grpc-port=--")


@given(arguments=st.lists(ARGUMENTS, max_size=6))
def test_any_command_line_is_settings_or_one_line(arguments: list[str]) -> None:
    try:
        result: object = flags.parse([FILE, *arguments], {})
    except (UsageError, HelpRequested) as stop:
        result = stop
    assert isinstance(result, ServeFlags) or str(result)


@given(value=st.text(max_size=20).filter(lambda text: text.lstrip("-") not in {flag.name for flag in FLAGS}))
def test_a_text_arrives_as_it_was_written(value: str) -> None:
    assert parse(f"--pool-name={value}").pool_name == value
    assert parse("-pool-name", value).pool_name == value
