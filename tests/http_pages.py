"""A page for tests: a standard library's HTTP server in a thread, for as long as it is needed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page(BaseHTTPRequestHandler):
    """What it answers with: 200 and this. It logs nothing."""

    protocol_version = "HTTP/1.1"

    def got(self) -> bytes:
        """To GET."""
        raise NotImplementedError

    def posted(self, body: bytes) -> bytes:
        """To POST."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._answer(self.got())

    def do_POST(self) -> None:
        self._answer(self.posted(self.rfile.read(int(self.headers.get("content-length") or 0))))

    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(page: type[Page]) -> Iterator[str]:
    """Its address, ``ip:port``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
