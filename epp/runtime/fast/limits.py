"""What one connection may take from us, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may take. Sizes in bytes."""

    max_receive_bytes: int
    """Of one message."""
    max_send_bytes: int | None = None
    """Of one message; None: no limit."""
    streams: int = 20_000
    """Open at once; a gateway opens another connection for more."""
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    max_frame: int = 1 << 16
    """In both directions: a piece of a body is one frame, and nobody waits long behind it."""
    stream_backlog: int = 1 << 18
    """Answers waiting for one slow stream, above which its peer may send no more."""
    backlog: int = 64 << 20
    """The same, of all streams together."""
    nuisances: int = 10_000
    """Frames without work in them (pings, resets, empty data) that are forgiven at once …"""
    nuisances_per_second: float = 1_000.0
    """… and over time. A gateway whose clients all leave at once resets a few thousand streams."""
    handshake_seconds: float = 10.0
    """For the preface, and for a header block in several frames."""
    drain_seconds: float = 1.0
    """For the answer to the ping that goes with the first GOAWAY."""
