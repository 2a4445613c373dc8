"""A gateway's connection to the picker, byte by byte: says what a test tells it to, right or wrong."""

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Self

from bench import frames
from bench.frames import Error, Frame, Replies, Reply
from bench.rig.picker import Picker
from epp.wire.pb import ext_proc_pb2 as pb
from tests.system.talk import DEADLINE


class Wire:
    """One connection; ``with`` closes it. ``begun`` False: nothing is said by itself."""

    def __init__(self, picker: Picker, *, begun: bool = True, acknowledged: bool = True) -> None:
        self.socket: socket.socket = socket.create_connection(
            ("127.0.0.1", picker.grpc_port), timeout=DEADLINE
        )
        if picker.tls:
            self.socket = _trusting().wrap_socket(self.socket)
        self.replies = Replies()
        self.is_closed = False
        """By the picker."""
        if begun:
            ack = frames.settings(ack=True) if acknowledged else b""
            self.send([frames.PREFACE, frames.settings(), ack])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def __getitem__(self, stream: int) -> Reply:
        return self.replies[stream]

    def send(self, parts: Iterable[bytes]) -> None:
        """All of it, or as much as the picker takes before it closes."""
        whole = b"".join(parts)
        try:
            self.socket.sendall(whole)
        except (ConnectionError, ssl.SSLEOFError):
            self.is_closed = True

    def hear(self) -> list[Frame]:
        """What comes next; nothing when the connection is closed."""
        try:
            some = self.socket.recv(1 << 16)
        except (ConnectionError, ssl.SSLEOFError):
            some = b""
        if not some:
            self.is_closed = True
        return self.replies.feed(some)

    def until(self, condition: Callable[[], object]) -> None:
        """Listen until it holds; AssertionError when the picker closes first."""
        while not condition():
            heard = self.hear()
            assert heard or not self.is_closed or condition(), f"closed: {self.replies.goaways}"

    def until_closed(self) -> Error | None:
        """The code of the GOAWAY with which the picker closes.

        None: it was not heard. A peer that goes on sending to a closed socket may lose what it has not read.
        """
        while not self.is_closed:
            self.hear()
        if self.replies.goaways:
            return self.replies.goaways[-1].code
        # what came before a failed send may still be there
        while self.hear():
            pass
        return self.replies.goaways[-1].code if self.replies.goaways else None

    def is_served(self, stream: int = 2 * 10**8 + 1) -> bool:
        """One more request on this connection gets its answer."""
        asked = pb.ProcessingRequest(
            request_headers=pb.HttpHeaders(
                headers=pb.HeaderMap(headers=[pb.HeaderValue(key=":path", raw_value=b"/")]),
                end_of_stream=True,
            )
        )
        self.send([frames.call(stream), frames.data(stream, frames.message(asked.SerializeToString()))])
        self.until(lambda: self[stream].messages)
        self.send([frames.reset(stream)])
        return b"x-gateway-destination-endpoint" in self[stream].messages[0]


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
