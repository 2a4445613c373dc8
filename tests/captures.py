"""Recorded answers of real servers, without what the recorder and HTTP put around them.

A line that begins with ``--- `` is the recorder's note. ``--- +0.0016s 775 bytes`` stands before that many
bytes of one read, ``--- end`` after the last.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "captures"
_READ = re.compile(rb"--- \+[\d.]+s (\d+) bytes\n")
_END = re.compile(rb"\n?--- end: [^\n]*\n?\Z")


@dataclass(frozen=True)
class Capture:
    """One HTTP response."""

    status: int
    headers: Mapping[str, str]
    chunks: tuple[bytes, ...]
    """The body as the server cut it; one chunk where it named a length."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def capture(name: str) -> Capture:
    """The response in ``tests/captures/<name>``."""
    head, _, rest = _without_notes((FOLDER / name).read_bytes()).partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    chunked = headers.get("transfer-encoding") == "chunked"
    assert chunked or int(headers["content-length"]) == len(rest), f"{name} is as long as it says"
    return Capture(int(status_line.split()[1]), headers, _chunks(rest) if chunked else (rest,))


def _without_notes(recorded: bytes) -> bytes:
    if not recorded.startswith(b"--- "):
        return _END.sub(b"", recorded)
    reads, place = [], 0
    while note := _READ.match(recorded, place):
        end = note.end() + int(note[1])
        reads.append(recorded[note.end() : end])
        place = end + 1  # the recorder ends each read with a line end of its own
    return b"".join(reads)


def _chunks(framed: bytes) -> tuple[bytes, ...]:
    chunks = []
    while framed:
        size, _, framed = framed.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        chunks.append(framed[:length])
        assert framed[length : length + 2] == b"\r\n", "a chunk ends with a line end"
        framed = framed[length + 2 :]
    return tuple(chunks)
