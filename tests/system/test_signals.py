"""What signals mean, from the first moment of the process on."""

import datetime as dt
import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.runtime.tls import KeyPair, self_signed
from tests.system.talk import endpoints

ROOT = Path(__file__).parents[2]

# The command, with a signal in the middle of an import: {0} is the module, {1} the number.
PROGRAM = """
import importlib.abc, signal, sys
from epp.__main__ import run

class Trap(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "{0}":
            sys.meta_path.remove(self)
            signal.raise_signal({1})

sys.meta_path.insert(0, Trap())
sys.argv[1:] = {2!r}
run()
"""


def interrupted(module: str, number: signal.Signals, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(module, int(number), list(arguments))
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("module", ["uvloop", "msgspec", "cryptography"])
def test_a_start_that_is_interrupted_ends_without_a_word(
    module: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "servers.yaml").write_text("endpoints: []\n")
    end = interrupted(
        module, number, "serve", f"--endpoints-file={tmp_path}/servers.yaml", "--metrics-port=0"
    )
    assert (end.returncode, end.stdout, end.stderr) == (-number, "", "")


EARLIEST = """
import sys

class Trap:
    @staticmethod
    def find_spec(name, *_):
        if name == "enum":  # of the standard library it is in almost everything
            import _signal
            _signal.raise_signal(_signal.SIGINT)

sys.meta_path.insert(0, Trap)
from epp.__main__ import run
sys.argv[1:] = ["version"]
run()
"""


def test_signals_are_seen_to_before_anything_is_imported() -> None:
    """But for what Python itself does at its start."""
    end = subprocess.run(
        [sys.executable, "-S", "-c", EARLIEST], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (end.returncode, end.stdout, end.stderr) == (-signal.SIGINT, "", "")


def test_a_hang_up_during_the_start_is_nothing() -> None:
    end = interrupted("uvloop", signal.SIGHUP, "version")
    assert (end.returncode, end.stderr) == (0, "")
    assert end.stdout.startswith("epp ")


def write(folder: Path, pair: KeyPair) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "tls.crt").write_bytes(pair.chain)
    (folder / "tls.key").write_bytes(pair.key)
    return pair.chain.decode()


def shown(port: int) -> str:
    try:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)
    except OSError:
        return ""


def said(picker: Picker) -> list[str]:
    return [json.loads(line)["msg"] for line in picker.log.read_text().splitlines()]


def test_a_hang_up_takes_over_the_list_and_the_certificates(driver: str, logs: Path, tmp_path: Path) -> None:
    """A certificate that nobody follows, one that is followed, and a list that has not changed."""
    old, new = (self_signed(dt.datetime.now(dt.UTC)) for _ in range(2))
    folder = tmp_path / "certificates"
    first = write(folder, old)
    flags = [f"--cert-path={folder}", f"--metrics-cert-dir={folder}"]
    listed = [{"name": "a", "address": "127.0.0.1", "port": 1}]
    with Picker(logs=logs, name="picker-hup", endpoints=listed, flags=flags, driver=driver) as picker:
        ports = (picker.grpc_port, picker.metrics_port)
        wait_until(lambda: all(shown(port) == first for port in ports), what="the first certificate")
        second = write(folder, new)
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: all(shown(port) == second for port in ports), what="the new certificate")
        wait_until(lambda: said(picker).count("certificate reloaded") >= 2, what="said for both ports")
        wait_until(lambda: "endpoints file taken over" in said(picker), what="the list")
        assert "SIGHUP: endpoints and certificates are read again" in said(picker)
        (folder / "tls.key").write_bytes(old.key)
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: said(picker).count("the new certificate is not used") >= 2, what="refused")
        assert all(shown(port) == second for port in ports)
        assert picker.terminate() == 0


def test_a_hang_up_takes_over_a_list_that_is_not_followed(logs: Path) -> None:
    with Picker(logs=logs, name="picker-unfollowed", endpoints={"a": "127.0.0.1:1"}) as picker:
        config = picker.config_file.read_text()
        picker.config_file.write_text(config.replace('"watchFile": true', '"watchFile": false'))
        picker.restart()
        picker.set_endpoints({"b": "127.0.0.1:2"})
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: set(endpoints(picker)) == {"b"}, what="the new list")
