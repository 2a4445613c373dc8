"""The event loop of the process: uvloop's, with one owner for each descriptor.

Place:   made by epp.commands.serve.
Rule:    a socket that ``create_connection`` is given is the loop's from then on, whatever comes of it.
Source:  uvloop 0.23, loop.pyx: a transport learns of its socket only after ``connection_made``. When the
         ClientHello fails in there (the server was killed a moment ago), the descriptor is closed and the
         socket not told. Collected, it closes the same number once more: a connection that has got it
         meanwhile goes deaf, or libuv aborts the process. aiohttp's client connects so.
"""

import socket
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """For ``asyncio.Runner``."""

    async def create_connection(
        self, *arguments: Any, sock: socket.socket | None = None, **options: Any
    ) -> Any:
        try:
            return await super().create_connection(*arguments, sock=sock, **options)
        finally:
            if sock is not None:
                sock.detach()
