"""Ports: taken on every address, or refused in one line that says why."""

import errno
import socket

import pytest

from epp.runtime import ports
from epp.runtime.errors import StartError


def test_a_port_is_taken_on_every_address() -> None:
    with ports.listen(0, flag="grpc-port") as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=20):
                pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_in_use_is_one_line_with_the_flag(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            ports.listen(port, flag="metrics-port")
    remedy = "stop what uses it or choose another"
    assert str(caught.value) == (
        f"--metrics-port: port {port} cannot be bound (Address already in use): {remedy}"
    )


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.EACCES, "(Permission denied): choose one from 1024 on, lower ones are not for every user"),
        (errno.EADDRNOTAVAIL, "(Cannot assign requested address): choose another"),
    ],
)
def test_the_remedy_is_that_of_the_reason(number: int, said: str) -> None:
    fault = ports.cannot_bind(80, OSError(number, "while attempting to bind on address …"), flag="grpc-port")
    assert str(fault) == f"--grpc-port: port 80 cannot be bound {said}"
