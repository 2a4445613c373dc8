"""The process as its operator meets it: flags, certificates, health, metrics, logs, and how it refuses.

On each driver what it does itself: ports, TLS, the health service, rest. On the default only: flags, files,
pages, log lines, choosing.
"""

import contextlib
import datetime as dt
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from bench.load import text
from bench.rig.envoy import DIALECTS, Envoy
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import Process, RigError, free_port, wait_until
from epp.runtime.tls import self_signed
from epp.wire.pb import health_pb2
from tests.system.talk import (
    CHAT,
    ask,
    channel_to,
    chat,
    converse,
    destination,
    endpoints,
    error_code,
    new_id,
    page,
    pick_of,
    reachability,
    request_body,
    request_headers,
    request_line,
    request_lines,
    series,
    wait_at_rest,
    wait_reachable,
)

ROOT = Path(__file__).parents[2]
NAMES = ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"]


# --- refusing to start -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class End:
    status: int
    output: str
    errors: str


def run(*arguments: str, module: Sequence[str] = ("-m", "epp")) -> End:
    """The command until it ends by itself."""
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return End(done.returncode, done.stdout, done.stderr)


CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
  - pluginRef: max-score-picker
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a good list of servers, a good configuration and two certificates."""
    (tmp_path / "servers.yaml").write_text("endpoints:\n- {name: a, address: 127.0.0.1, port: 1}\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    first, second = (self_signed(dt.datetime.now(dt.UTC)) for _ in range(2))
    for folder, chain, key in (("good", first.chain, first.key), ("mixed", first.chain, second.key)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tls.crt").write_bytes(chain)
        (tmp_path / folder / "tls.key").write_bytes(key)
    (tmp_path / "no-key").mkdir()
    (tmp_path / "no-key" / "tls.crt").write_bytes(first.chain)
    return tmp_path


def ports() -> list[str]:
    return [f"--{name}={free_port()}" for name in ("grpc-port", "grpc-health-port", "metrics-port")]


def refused(*arguments: str) -> str:
    """The one line with which a start is refused."""
    end = run("serve", *ports(), *arguments)
    assert end.status in (1, 2), end
    assert not end.output
    lines = end.errors.splitlines()
    assert len(lines) == 1, end.errors
    assert "Traceback" not in lines[0]
    return lines[0]


COMMANDS = "there are serve, controller, compile, plan, apply, lint, bench, version and help"


@pytest.mark.parametrize(
    "old, new, line, said",
    [
        pytest.param("plugins:", "plugin:", 3, ["plugin", 'did you mean "plugins"?'], id="unknown-field"),
        pytest.param("weight: 2", "wieght: 2", 10, ["wieght", 'did you mean "weight"?'], id="nested-field"),
        pytest.param("weight: 2", "weight: heavy", 10, ["weight", "number", "heavy"], id="wrong-type"),
        pytest.param("weight: 2", "weight: [2]", 10, ["weight", "list"], id="list-for-number"),
        pytest.param(
            "type: queue-scorer", "type: queue-scorrer", 4, ["queue-scorrer", "queue-scorer"], id="plugin"
        ),
        pytest.param(
            "pluginRef: queue-scorer", "pluginRef: queu-scorer", 9, ["queu-scorer", "queue-scorer"], id="ref"
        ),
        pytest.param("v1alpha1", "v9", 1, ["llm-d.ai/v9", "llm-d.ai/v1alpha1"], id="version"),
        pytest.param("- type: max-score-picker", "- type: [", 7, ["YAML"], id="not-yaml"),
        pytest.param(
            "- type: max-score-picker",
            "- type: max-score-picker\n  parameters: {maxNumOfEndpoint: 2}",
            6,
            ["maxNumOfEndpoint", 'did you mean "maxNumOfEndpoints"?'],
            id="parameter",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(
    old: str, new: str, line: int, said: list[str], files: Path
) -> None:
    config = files / "wrong.yaml"
    config.write_text(CONFIG.replace(old, new, 1))
    message = refused("--config-file", str(config), "--endpoints-file", str(files / "servers.yaml"))
    assert f"{config}:{line}: " in message
    for word in said:
        assert word in message


@pytest.mark.parametrize(
    "text, said",
    [
        pytest.param("endpoints:\n- {name: a, adress: h, port: 1}\n", [":2:", '"address"'], id="field"),
        pytest.param("endpoints:\n- {name: a, address: 127.0.0.1, port: 0}\n", [":2:", "port"], id="port"),
        pytest.param("endpoints: 7\n", [":1:", "list"], id="no-list"),
        pytest.param("", ["empty"], id="empty"),
        pytest.param("endpoints:\n- {name: a, address: 'http://h', port: 1}\n", ["address"], id="url"),
    ],
)
def test_a_wrong_list_of_servers_is_refused_with_its_place(text: str, said: list[str], files: Path) -> None:
    listed = files / "wrong.yaml"
    listed.write_text(text)
    message = refused("--endpoints-file", str(listed))
    assert str(listed) in message
    for word in said:
        assert word in message


@pytest.mark.parametrize(
    "arguments, said",
    [
        pytest.param([], ["--endpoints-file"], id="no-servers"),
        pytest.param(["--endpoints-file", "{missing}"], ["{missing}", "No such file"], id="no-list"),
        pytest.param(
            ["--endpoints-file={servers}", "--config-file={missing}"],
            ["--config-file", "{missing}", "No such file"],
            id="no-config",
        ),
        pytest.param(
            ["--endpoints-file={servers}", "--cert-path={missing}"],
            ["--cert-path", "{missing}", "No such file", "tls.crt"],
            id="no-certificate",
        ),
        pytest.param(
            ["--endpoints-file={servers}", "--cert-path={folder}/no-key"],
            ["--cert-path", "tls.key", "No such file"],
            id="no-key",
        ),
        pytest.param(
            ["--endpoints-file={servers}", "--cert-path={folder}/mixed"],
            ["--cert-path", "tls.crt", "does not belong to", "tls.key"],
            id="key-of-another-certificate",
        ),
        pytest.param(
            ["--endpoints-file={servers}", "--metrics-cert-dir={folder}/mixed"],
            ["--metrics-cert-dir", "does not belong to"],
            id="key-of-another-certificate-for-metrics",
        ),
        pytest.param(["--grpc-prot=1"], ["--grpc-prot", "--grpc-port"], id="unknown-flag"),
        pytest.param(["--drain-timeout=soon"], ["--drain-timeout", "soon"], id="no-duration"),
        pytest.param(["--grpc-port=70000"], ["--grpc-port", "70000"], id="no-port"),
        pytest.param(
            ["--endpoint-selector=app=x"], ["--endpoint-selector", "--endpoint-target-ports"], id="selector"
        ),
        pytest.param(
            ["--endpoints-file={servers}", "--ha-enable-leader-election"],
            ["--ha-enable-leader-election", "needs Kubernetes"],
            id="leader-election",
        ),
        pytest.param(["--secure-serving=maybe"], ["--secure-serving", "maybe"], id="no-boolean"),
        pytest.param(["servers.yaml"], ["servers.yaml"], id="argument"),
    ],
)
def test_a_start_that_cannot_work_is_refused_in_one_line(
    arguments: list[str], said: list[str], files: Path
) -> None:
    places = {"missing": f"{files}/nothing", "servers": f"{files}/servers.yaml", "folder": str(files)}
    message = refused(*(one.format(**places) for one in arguments))
    for word in said:
        assert word.format(**places) in message


@pytest.mark.parametrize("flag", ["grpc-port", "grpc-health-port", "metrics-port"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named_with_its_flag(flag: str, host: str, driver: str, files: Path) -> None:
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        listed = str(files / "servers.yaml")
        message = refused("--endpoints-file", listed, f"--{flag}={port}", f"--server={driver}")
    reason = "(Address already in use): stop what uses it or choose another"
    assert message == f"epp serve: --{flag}: port {port} cannot be bound {reason}"


def test_two_pickers_never_share_a_port(driver: str, logs: Path, picker: Picker) -> None:
    """As kernels would allow (SO_REUSEPORT), and gRPC by default asks for."""
    second = Picker(logs=logs, name="picker-second", endpoints={}, driver=driver)
    second.command[second.command.index("--grpc-port") + 1] = str(picker.grpc_port)
    with pytest.raises(RigError, match=f"--grpc-port: port {picker.grpc_port}"):
        second.start()


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["--help"], 0, "serve"),
        (["serve", "--help"], 0, "--grpc-port"),
        (["-h"], 0, "serve"),
        (["version"], 0, "epp 0."),
        ([], 0, "serve"),
        (["sreve"], 2, "serve"),
    ],
)
def test_the_command_explains_itself(arguments: list[str], status: int, said: str) -> None:
    end = run(*arguments)
    assert end.status == status
    assert said in (end.output if status == 0 else end.errors)
    assert not (end.errors if status == 0 else end.output)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["version", "--x"], 'epp version: unexpected argument "--x": see epp help'),
        (["--version", "x"], 'epp --version: unexpected argument "x": see epp help'),
        (["help", "sreve"], 'epp help: unexpected argument "sreve": see epp help'),
        (["Serve"], f'epp: unknown command "Serve": {COMMANDS}'),
        ([""], f'epp: unknown command "": {COMMANDS}'),
        (["--", "x"], 'epp serve: unexpected argument "x"'),
        (["-"], 'epp serve: unexpected argument "-": there are flags only, see epp serve --help'),
        (["serve", "version"], 'epp serve: unexpected argument "version": there are flags only'),
    ],
)
def test_a_command_says_what_it_does_not_take(arguments: list[str], line: str) -> None:
    end = run(*arguments)
    assert (end.status, end.output) == (2, "")
    assert end.errors.startswith(line) and end.errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [["version", "--help"], ["help"], ["help", "serve"]])
def test_help_is_never_far(arguments: list[str]) -> None:
    end = run(*arguments)
    assert (end.status, end.errors) == (0, "")
    assert end.output.startswith("usage: epp")


MISSING = "cannot be read (No such file or directory): check the path"


@pytest.mark.parametrize(
    "flag, name, said",
    [
        pytest.param("config-file", "nothing", MISSING, id="config-missing"),
        pytest.param("config-file", "nothing/x", MISSING, id="config-below-nothing"),
        pytest.param(
            "config-file",
            "servers.yaml/x",
            "cannot be read (Not a directory): check the path",
            id="config-below-a-file",
        ),
        pytest.param("config-file", "good", "is a directory: give a file", id="config-directory"),
        pytest.param(
            "config-file",
            "good/tls.der",
            "is not UTF-8 text (byte 1): save it as UTF-8",
            id="config-binary",
        ),
        pytest.param("endpoints-file", "nothing", MISSING, id="list-missing"),
        pytest.param("endpoints-file", "good", "is a directory: give a file", id="list-directory"),
        pytest.param("endpoints-file", "pipe", "is a pipe: give a regular file", id="list-pipe"),
        pytest.param("metrics-client-ca-file", "nothing", MISSING, id="ca-missing"),
        pytest.param("metrics-client-ca-file", "good", "is a directory: give a file", id="ca-directory"),
        pytest.param(
            "metrics-client-ca-file",
            "servers.yaml",
            "is not a PEM certificate: it must have a whole block that begins with"
            " -----BEGIN CERTIFICATE-----",
            id="ca-text",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_flag_and_the_remedy(
    flag: str, name: str, said: str, files: Path
) -> None:
    os.mkfifo(files / "pipe")
    (files / "good" / "tls.der").write_bytes(b"\x30\x82")
    others = [f"--endpoints-file={files}/servers.yaml", f"--metrics-cert-dir={files}/good"]
    message = refused(*others, f"--{flag}={files}/{name}")
    assert message == f"epp serve: --{flag}: {files}/{name} {said}"


def test_a_list_named_in_the_configuration_is_named_by_its_field(files: Path) -> None:
    config = files / "discovery.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\n"
        "kind: EndpointPickerConfig\n"
        "plugins: [{type: file-discovery, parameters: {path: nothing.yaml}}, {type: queue-scorer}]\n"
        "dataLayer: {discovery: {pluginRef: file-discovery}}\n"
    )
    assert refused(f"--config-file={config}") == (
        f"epp serve: {config}:3: plugins[0].parameters.path: nothing.yaml {MISSING},"
        f" it is looked for in {ROOT}"
    )


def test_a_configuration_may_come_out_of_a_pipe(files: Path) -> None:
    """As the shell's ``<(command)``."""
    os.mkfifo(files / "pipe")
    writer = threading.Thread(target=(files / "pipe").write_text, args=("kind: Pod\n",))
    writer.start()
    message = refused(f"--endpoints-file={files}/servers.yaml", f"--config-file={files}/pipe")
    writer.join()
    assert (
        message == f'epp serve: {files}/pipe:1: "apiVersion" is missing, write apiVersion: llm-d.ai/v1alpha1'
    )


# --- upstream's command line -------------------------------------------------------------------------


def started(
    logs: Path,
    name: str,
    endpoints: dict[str, str],
    flags: Sequence[str],
    *,
    tls: bool,
    driver: str | None = None,
) -> Picker:
    return Picker(logs=logs, name=f"picker-{name}", endpoints=endpoints, flags=flags, tls=tls, driver=driver)


def test_flags_without_a_sub_command_mean_serve(logs: Path, servers: list[LlamaServer]) -> None:
    """The arguments of an upstream Deployment, in Go's spellings."""
    command = [sys.executable, "-m", "epp"]
    flags = ["-v", "4", "--zap-encoder=json", "-pool-namespace", "models", "--metrics-endpoint-auth=false"]
    with Picker(
        logs=logs,
        name="picker-upstream",
        endpoints={servers[0].name: servers[0].address},
        command=command,
        flags=flags,
    ) as picker:
        wait_reachable(picker, {servers[0].name: "up"})
        (shown,) = page(picker, "/debug/endpoints")["endpoints"]
        assert shown["namespace"] == "models"


def test_a_list_of_servers_is_all_that_is_needed(tmp_path: Path, servers: list[LlamaServer]) -> None:
    listed = tmp_path / "servers.yaml"
    listed.write_text(f"endpoints:\n- {{name: one, address: 127.0.0.1, port: {servers[0].port}}}\n")
    health = free_port()
    flags = [f"--grpc-port={free_port()}", f"--grpc-health-port={health}", f"--metrics-port={free_port()}"]
    command = [sys.executable, "-m", "epp", "serve", f"--endpoints-file={listed}", *flags]
    environment = {"PYTHONPATH": str(ROOT)}
    with Process("bare", command, log=tmp_path / "log", environment=environment) as bare:
        wait_until(lambda: health_of(health, "") in ("SERVING", None) and serving(health), what="serving")
        assert bare.terminate() == 0


def serving(port: int) -> bool:
    return health_of(port, "") == "SERVING"


def health_of(port: int, service: str, credentials: grpc.ChannelCredentials | None = None) -> str | None:
    """The answer of one health service; None when nobody listens."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    address = f"127.0.0.1:{port}"
    opened = (
        grpc.insecure_channel(address, options=options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    )
    with opened as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.RpcError as failure:
            return None if failure.code() is grpc.StatusCode.UNAVAILABLE else str(failure.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


# --- certificates ------------------------------------------------------------------------------------


def shown_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)


def test_by_default_the_gateway_meets_a_self_signed_certificate_and_http_2(picker: Picker) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", picker.grpc_port), timeout=20) as plain,
        context.wrap_socket(plain) as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"
        assert secured.version() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plaintext"])
def test_a_gateway_reaches_the_picker(tls: bool, driver: str, logs: Path, servers: list[LlamaServer]) -> None:
    listed = {server.name: server.address for server in servers}
    with (
        started(logs, f"tls-{tls}", listed, [], tls=tls, driver=driver) as picker,
        Envoy(
            logs=logs,
            name=f"envoy-tls-{tls}",
            servers=list(listed.values()),
            picker=picker.address,
            picker_tls=tls,
            listeners=DIALECTS,
        ) as gateway,
    ):
        assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200
        with channel_to(picker) as channel:
            first, _ = converse(channel, [request_headers(), request_body(chat())])
            assert destination(first) in listed.values()


def test_a_gateway_that_speaks_plaintext_to_a_tls_port_gets_an_error(
    logs: Path, picker: Picker, servers: list[LlamaServer]
) -> None:
    with Envoy(
        logs=logs,
        name="envoy-mismatch",
        servers=[server.address for server in servers],
        picker=picker.address,
        picker_tls=False,
        listeners={"original_dst": DIALECTS["original_dst"]},
    ) as gateway:
        assert ask(gateway.url("original_dst"), CHAT, chat()).status == 500


def test_an_own_certificate_is_shown_and_a_new_one_taken_over(
    driver: str, logs: Path, files: Path, servers: list[LlamaServer]
) -> None:
    folder = files / "good"
    flags = ["--cert-path", str(folder), "--enable-cert-reload"]
    listed = {servers[0].name: servers[0].address}
    with started(logs, "own", listed, flags, tls=True, driver=driver) as picker:
        first = shown_certificate(picker.grpc_port)
        assert first.strip() == (folder / "tls.crt").read_text().strip()
        (folder / "tls.key").write_bytes((files / "mixed" / "tls.key").read_bytes())  # halfway
        assert shown_certificate(picker.grpc_port) == first
        wait_until(
            lambda: "does not belong to" in str(page(picker, "/readyz").get("details")),
            what="told on /readyz",
        )
        pair = self_signed(dt.datetime.now(dt.UTC))
        (folder / "tls.key").write_bytes(pair.key)
        (folder / "tls.crt").write_bytes(pair.chain)
        wait_until(
            lambda: shown_certificate(picker.grpc_port).strip() == pair.chain.decode().strip(),
            what="the new certificate",
        )
        assert "details" not in page(picker, "/readyz")


def test_an_older_tls_than_told_is_refused(logs: Path) -> None:
    flags = ["--tls-min-version=VersionTLS13"]
    with started(logs, "tls13", {"a": "127.0.0.1:1"}, flags, tls=True, driver="fast") as picker:
        assert negotiated(picker.grpc_port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(ssl.SSLError):
            negotiated(picker.grpc_port, ssl.TLSVersion.TLSv1_2)
        wait_until(lambda: "TLS version is too old" in picker.log.read_text(), what="the reason in the log")


def test_only_the_cipher_suites_that_were_named_are_spoken(logs: Path, files: Path) -> None:
    """On both ports that speak TLS."""
    flags = ["--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]
    flags += ["--metrics-cert-dir", str(files / "good")]
    with started(logs, "suites", {"a": "127.0.0.1:1"}, flags, tls=True, driver="fast") as picker:
        wait_until(lambda: reads(lambda: shown_certificate(picker.metrics_port)) != "", what="the pages")
        for port in (picker.grpc_port, picker.metrics_port):
            assert negotiated(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3", "whose suites nobody can choose"
            spoken = negotiated(port, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256")
            assert spoken == "TLSv1.2"
            with pytest.raises(ssl.SSLError):
                negotiated(port, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-GCM-SHA384")


def test_the_gateway_is_told_what_each_server_scored_when_asked_for(
    logs: Path, servers: list[LlamaServer]
) -> None:
    listed = {server.name: server.address for server in servers}
    flags = ["--emit-endpoint-scores", "--enable-grpc-stream-metrics"]
    with started(logs, "scores", listed, flags, tls=True, driver="fast") as picker:
        wait_until(lambda: set(reachability(picker).values()) == {"up"}, what="all servers seen")
        with channel_to(picker) as channel:
            first, _ = converse(channel, [request_headers(), request_body(chat())])
        told = MessageToDict(first.dynamic_metadata)["envoy.lb"]
        assert told["x-gateway-destination-endpoint"] == destination(first)
        scores = told["x-gateway-destination-endpoint-scores"]
        assert set(scores) == set(listed.values())
        assert scores[destination(first)] == max(scores.values())
        name = "llm_d_epp_extproc_stream_duration_seconds_count"
        wait_until(lambda: series(picker).get(name) == 1, what="the stream counted and timed")


def negotiated(port: int, newest: ssl.TLSVersion, ciphers: str = "") -> str | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    if ciphers:
        context.set_ciphers(ciphers)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain) as secured,
    ):
        return secured.version()


def test_the_metrics_port_can_speak_tls(logs: Path, files: Path, servers: list[LlamaServer]) -> None:
    folder = files / "good"
    flags = ["--metrics-cert-dir", str(folder)]
    with started(logs, "pages", {servers[0].name: servers[0].address}, flags, tls=True) as picker:
        wait_until(
            lambda: reads(lambda: shown_certificate(picker.metrics_port)) == (folder / "tls.crt").read_text(),
            what="the certificate",
        )
        old = shown_certificate(picker.metrics_port)
        pair = self_signed(dt.datetime.now(dt.UTC))
        for name, text in (("tls.crt", pair.chain), ("tls.key", pair.key)):
            (folder / name).write_bytes(text)
        wait_until(lambda: shown_certificate(picker.metrics_port) != old, what="the next one, as upstream")


def reads(read: "object") -> str:
    try:
        return str(read())  # type: ignore[operator]
    except OSError:
        return ""


# --- health ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", NAMES)
def test_health_is_answered_for_every_name_that_gateways_ask(service: str, picker: Picker) -> None:
    assert picker.health(service) == "SERVING"


@pytest.mark.parametrize("service", NAMES)
def test_health_is_also_on_the_main_port_when_asked_for(service: str, health_checked: Picker) -> None:
    shown = ssl.get_server_certificate(("127.0.0.1", health_checked.grpc_port)).encode()
    credentials = grpc.ssl_channel_credentials(shown)
    assert health_of(health_checked.grpc_port, service, credentials) == "SERVING"


@pytest.fixture(scope="module")
def health_checked(driver: str, logs: Path, _servers: list[LlamaServer]) -> Iterator[Picker]:
    listed = {server.name: server.address for server in _servers}
    with started(logs, "health", listed, ["--health-checking"], tls=True, driver=driver) as picker:
        yield picker


def test_health_is_not_on_the_main_port_by_default(picker: Picker) -> None:
    shown = ssl.get_server_certificate(("127.0.0.1", picker.grpc_port)).encode()
    assert health_of(picker.grpc_port, "", grpc.ssl_channel_credentials(shown)) == "UNIMPLEMENTED"


@pytest.mark.default_driver
def test_the_pages_say_that_all_is_well(picker: Picker) -> None:
    assert page(picker, "/healthz") == {"status": "alive"}
    assert page(picker, "/readyz") == {"status": "ready"}


# --- metrics -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(logs: Path, _servers: list[LlamaServer]) -> Iterator[tuple[Picker, Envoy]]:
    listed = {server.name: server.address for server in _servers}
    with (
        Picker(logs=logs, name="picker-fresh", endpoints=listed) as picker,
        Envoy(
            logs=logs,
            name="envoy-fresh",
            servers=list(listed.values()),
            picker=picker.address,
            listeners=DIALECTS,
        ) as gateway,
    ):
        wait_reachable(picker, dict.fromkeys(listed, "up"))
        yield picker, gateway


def test_known_traffic_is_counted_as_upstream_counts_it(fresh: tuple[Picker, Envoy]) -> None:
    picker, gateway = fresh
    url = gateway.url("original_dst")
    before = series(picker)
    for _ in range(5):
        assert ask(url, CHAT, chat(max_tokens=3, model="m")).status == 200
    for _ in range(2):
        assert ask(url, CHAT, chat(max_tokens=3, model="m", stream=True)).status == 200
    assert ask(url, CHAT, b"{}").status == 400
    assert ask(url, "/v1/embeddings", b'{"model": "m", "input": "x"}').status == 501
    wait_at_rest(picker)
    now = series(picker)
    grown = {name: now.count(name, model_name="m") - before.count(name, model_name="m") for name in now.names}
    for name, value in {
        "llm_d_epp_request_total": 8,
        "inference_objective_request_total": 8,
        "llm_d_epp_request_duration_seconds_count": 7,
        "inference_objective_request_duration_seconds_count": 7,
        "llm_d_epp_request_output_tokens_sum": 21,
        "inference_objective_output_tokens_count": 7,
        "llm_d_epp_request_input_tokens_count": 7,
        "llm_d_epp_request_ttft_seconds_count": 7,
    }.items():
        assert grown[name] == value, name
    errors = "llm_d_epp_request_error_total"
    assert now.get(errors, error_code="BadRequest") == 1
    assert now.get(errors, error_code="ModelServerError", model_name="m") == 1
    ttft = "llm_d_epp_request_ttft_seconds_count"
    assert (now.get(ttft, streaming="true"), now.get(ttft, streaming="false")) == (2, 5)
    attempts = "llm_d_epp_scheduler_attempts_total"
    assert now.get(attempts, status="success", target_model_name="m") == 8
    assert now.count("llm_d_epp_scheduler_e2e_duration_seconds_count") == 8


def test_the_pool_is_on_the_page(fresh: tuple[Picker, Envoy], servers: list[LlamaServer]) -> None:
    picker, _ = fresh
    wait_reachable(picker, {server.name: "up" for server in servers})
    now = series(picker)
    for name in ("llm_d_epp_ready_endpoints", "inference_pool_ready_pods"):
        assert now.get(name, name="rig") == 3
    for name in (
        "inference_pool_average_queue_size",
        "inference_pool_average_running_requests",
        "inference_pool_per_pod_queue_size",
        "llm_d_epp_average_queue_size",
        "llm_d_epp_per_endpoint_queue_size",
        "inference_extension_info",
        "fleet_epp_reading_age_seconds",
        "process_resident_memory_bytes",
    ):
        assert name in now.names
    # llama.cpp does not say how full its KV cache is: unknown is left out, never 0
    assert "inference_pool_average_kv_cache_utilization" not in now.names
    for server in servers:
        assert now.get("fleet_epp_endpoint_up", endpoint=server.name) == 1


def test_a_gateway_without_the_answer_is_not_counted_as_a_success(fresh: tuple[Picker, Envoy]) -> None:
    picker, _ = fresh
    name = "llm_d_epp_request_duration_seconds_count"
    before = series(picker).count(name, model_name="left")
    with channel_to(picker) as channel:
        list(converse(channel, [request_headers(), request_body(chat(model="left"))]))
    wait_at_rest(picker)
    now = series(picker)
    assert now.get("llm_d_epp_request_total", model_name="left") == 1
    assert now.count(name, model_name="left") == before == 0


# --- why there ---------------------------------------------------------------------------------------


@pytest.mark.default_driver
def test_a_pick_is_explained_by_every_plugins_score(gateway: Envoy, picker: Picker) -> None:
    request_id = new_id()
    words = text(random.Random(1), 200)
    for one in (new_id(), request_id):
        headers = [("x-request-id", one)]
        reply = ask(gateway.url("original_dst"), CHAT, chat(words, model="why"), headers=headers)
        assert reply.status == 200
        wait_at_rest(picker)
    pick = pick_of(picker, request_id)
    assert pick["model"] == "why"
    assert pick["prompt_tokens"] > 100
    assert pick["weights"] == {
        "queue-scorer": 2,
        "kv-cache-utilization-scorer": 2,
        "prefix-cache-scorer": 3,
    }
    assert len(pick["candidates"]) == 3
    best = max(pick["candidates"], key=lambda one: one["total"])
    assert [best["endpoint"]] == pick["picked"] and best["address"] == reply.served_by
    assert best["cached_blocks"] > 0
    assert best["scores"]["prefix-cache-scorer"] > 0.5
    for one in pick["candidates"]:
        shares = [pick["weights"][name] * s for name, s in one["scores"].items() if s is not None]
        assert one["total"] == pytest.approx(sum(shares), abs=1e-6)


# --- logs --------------------------------------------------------------------------------------------


def test_each_request_gives_one_line_of_json(fresh: tuple[Picker, Envoy]) -> None:
    picker, gateway = fresh
    ids = [new_id() for _ in range(4)]
    bodies = [chat(model="m", max_tokens=3), chat(model="m", max_tokens=3, stream=True), b"{", None]
    for request_id, body in zip(ids, bodies, strict=True):
        path = "/v1/models" if body is None else CHAT
        ask(gateway.url("override_host"), path, body, headers=[("x-request-id", request_id)])
    answered, streamed, refused_, got = (request_line(picker, one) for one in ids)
    assert answered["level"] == "info" and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", answered["ts"])
    assert answered["model"] == "m" and answered["path"] == CHAT and answered["status"] == 200
    assert answered["completion_tokens"] == streamed["completion_tokens"] == 3
    assert answered["endpoint"].startswith("llama-") and answered["duration_ms"] > 0
    assert streamed["ttft_ms"] <= streamed["duration_ms"]
    assert (refused_["status"], refused_["code"]) == (400, "BadRequest")
    assert (got["path"], got["status"]) == ("/v1/models", 200)
    told = [line["request_id"] for line in request_lines(picker) if line["request_id"] in ids]
    assert sorted(told) == sorted(ids)  # each when the gateway has closed its stream


def test_every_line_of_the_log_is_json(fresh: tuple[Picker, Envoy]) -> None:
    picker, gateway = fresh
    assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200
    for line in picker.log.read_text().splitlines():
        assert {"level", "ts", "msg"} <= json.loads(line).keys()


def test_errors_only_means_no_request_lines(logs: Path, servers: list[LlamaServer]) -> None:
    listed = {server.name: server.address for server in servers}
    with started(logs, "quiet", listed, ["--zap-log-level=error"], tls=False) as picker:
        with channel_to(picker) as channel:
            first, _ = converse(channel, [request_headers(), request_body(chat())])
            assert destination(first)
        wait_at_rest(picker)
        assert picker.terminate() == 0
        assert picker.log.read_text() == ""


# --- filters of the file -----------------------------------------------------------------------------

SELECTED = {
    "plugins": [
        {"type": "header-based-testing-filter"},
        {
            "name": "decode",
            "type": "label-selector-filter",
            "parameters": {"matchLabels": {"role": "decode"}},
        },
        {"type": "random-picker"},
    ],
    "schedulingProfiles": [
        {
            "name": "default",
            "plugins": [
                {"pluginRef": "header-based-testing-filter"},
                {"pluginRef": "decode"},
                {"pluginRef": "random-picker"},
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def selecting(logs: Path, _servers: list[LlamaServer]) -> Iterator[tuple[Picker, Envoy]]:
    listed = [
        {"name": s.name, "address": "127.0.0.1", "port": s.port, "labels": {"role": role}}
        for s, role in zip(_servers, ("decode", "decode", "prefill"), strict=True)
    ]
    with (
        Picker(logs=logs, name="picker-select", endpoints=listed, config=SELECTED) as picker,
        Envoy(
            logs=logs,
            name="envoy-select",
            servers=[s.address for s in _servers],
            picker=picker.address,
            listeners=DIALECTS,
        ) as gateway,
    ):
        wait_reachable(picker, {s.name: "up" for s in _servers})
        yield picker, gateway


@pytest.mark.parametrize("body", [chat(), None], ids=["POST", "GET"])
@pytest.mark.parametrize("listener", ["original_dst", "override_host"])
def test_filters_hold_for_every_request(
    listener: str, body: bytes | None, selecting: tuple[Picker, Envoy], servers: list[LlamaServer]
) -> None:
    url, path = selecting[1].url(listener), CHAT if body else "/v1/models"
    every = [("test-epp-endpoint-selection", "127.0.0.1")]
    allowed = {server.address for server in servers[:2]}  # the third has another role
    assert {ask(url, path, body, headers=every).served_by for _ in range(16)} == allowed
    only = [("test-epp-endpoint-selection", servers[1].address)]
    assert {ask(url, path, body, headers=only).served_by for _ in range(8)} == {servers[1].address}


def test_a_selection_that_leaves_nothing_is_refused(selecting: tuple[Picker, Envoy]) -> None:
    headers = [("test-epp-endpoint-selection", "10.255.255.1:1")]
    reply = ask(selecting[1].url("original_dst"), CHAT, chat(), headers=headers)
    assert reply.status == 429
    assert reply.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    assert error_code(reply) == "ResourceExhausted"


@pytest.mark.default_driver
@pytest.mark.parametrize(
    "hint, number",
    [
        pytest.param(lambda servers: [servers[2].address], 1, id="list"),
        pytest.param(lambda servers: f"{servers[0].address},{servers[1].address}", 2, id="comma-string"),
        pytest.param(lambda servers: ["127.0.0.1"], 3, id="ip-without-port"),
        pytest.param(lambda servers: ["127.0.0.1:1"], 0, id="nobody"),
        pytest.param(lambda servers: [], 0, id="empty"),
    ],
)
@pytest.mark.parametrize("with_body", [True, False], ids=["POST", "GET"])
def test_the_gateways_subset_hint_holds(
    hint: Callable[[list[LlamaServer]], object],
    number: int,
    with_body: bool,
    picker: Picker,
    servers: list[LlamaServer],
) -> None:
    messages = [request_headers(ended=not with_body), *([request_body(chat())] if with_body else [])]
    for message in messages:
        hinted = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hinted.update({"x-gateway-destination-endpoint-subset": hint(servers)})
    with channel_to(picker) as channel:
        first = next(converse(channel, messages))
    if number:
        allowed = {2: servers[:2], 1: servers[2:], 3: servers}[number]
        assert destination(first) in {server.address for server in allowed}
    else:
        assert first.immediate_response.status.code == 503


def test_the_subset_hint_can_be_switched_off(logs: Path, servers: list[LlamaServer]) -> None:
    listed = {server.name: server.address for server in servers}
    with started(logs, "no-subset", listed, ["--disable-endpoint-subset-filter"], tls=False) as picker:
        wait_reachable(picker, dict.fromkeys(listed, "up"))
        message = request_headers(ended=True)
        hinted = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hinted.update({"x-gateway-destination-endpoint-subset": ["127.0.0.1:1"]})
        with channel_to(picker) as channel:
            assert destination(next(converse(channel, [message]))) in listed.values()


# --- what it costs -----------------------------------------------------------------------------------


def test_an_idle_picker_is_there_soon_and_costs_next_to_nothing(
    driver: str, logs: Path, servers: list[LlamaServer]
) -> None:
    """Bounds far above what it takes: they catch a loop that spins, and a library too many."""
    listed = {server.name: server.address for server in servers}
    with started(logs, "idle", listed, [], tls=True, driver=driver) as picker:
        assert picker.started_in is not None and picker.started_in < 10
        wait_reachable(picker, dict.fromkeys(listed, "up"))
        before, began = picker.cpu_seconds(), time.monotonic()
        time.sleep(3)
        assert (picker.cpu_seconds() - before) / (time.monotonic() - began) < 0.1
        assert picker.rss_bytes() < 150 << 20


class SlowMetrics(BaseHTTPRequestHandler):
    """A server that takes its time to tell its load."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0.7 if self.path == "/metrics" else 0.0)
        page = b"vllm:num_requests_waiting 2\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n"
        self.send_response(200)
        self.send_header("content-length", str(len(page)))
        with contextlib.suppress(ConnectionError):  # a picker that ends does not wait
            self.end_headers()
            self.wfile.write(page)

    def log_message(self, *_: object) -> None: ...


def waiting_at(picker: Picker, channel: grpc.Channel) -> int | None:
    """What is known of the slow server's queue once a request was placed: nobody else asks how old it is."""
    assert destination(next(converse(channel, [request_headers(ended=True)])))
    number: int | None = endpoints(picker)["slow"]["load"]["waiting"]
    return number


@pytest.mark.parametrize("threshold, forgets", [("300ms", True), ("30s", False)])
def test_a_reading_counts_as_long_as_the_flag_says(threshold: str, forgets: bool, logs: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowMetrics) as server:
        thread = threading.Thread(target=server.serve_forever, name="slow metrics")
        thread.start()
        listed = {"slow": f"127.0.0.1:{server.server_port}"}
        flags = [f"--metrics-staleness-threshold={threshold}"]
        try:
            with (
                started(logs, f"stale-{threshold}", listed, flags, tls=False) as picker,
                channel_to(picker) as channel,
            ):
                wait_until(lambda: waiting_at(picker, channel) == 2, what="a reading")
                deadline, lost = time.monotonic() + 3, False
                while not lost and time.monotonic() < deadline:
                    time.sleep(0.02)
                    lost = waiting_at(picker, channel) is None
                assert lost == forgets
                assert reachability(picker) == {"slow": "up"}
        finally:
            server.shutdown()
            thread.join()
