"""Taking a port, and why it cannot be had.

Place:   used by whatever listens.
Rule:    every address, IPv4 and IPv6; a port in use is an error of the start, in one line with its flag.
"""

import errno
import os
import socket

from epp.runtime.errors import StartError


def listen(port: int, *, flag: str, backlog: int = 128) -> socket.socket:
    """Take ``port``, or one that the system chooses for 0; StartError if it cannot be had."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        return socket.create_server(("", port), backlog=backlog)
    except OSError as fault:
        raise cannot_bind(port, fault, flag=flag) from fault


def cannot_bind(port: int, fault: OSError, *, flag: str) -> StartError:
    """The one line about a port that the system does not give."""
    said = os.strerror(fault.errno or 0)
    match fault.errno:
        case errno.EADDRINUSE:
            remedy = "stop what uses it or choose another"
        case errno.EACCES:
            remedy = "choose one from 1024 on, lower ones are not for every user"
        case _:
            remedy = "choose another"
    return StartError(f"--{flag}: port {port} cannot be bound ({said}): {remedy}")
