"""What clients may hold open on a server: connections, and time."""

from dataclasses import dataclass

from server.config import ServerSettings

_OTHER_FILES = 256
"""Open files that are no client's connections."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may hold open, and for how long. Times are in seconds."""

    max_connections: int
    max_per_client: int | None
    """Connections from one address; None for no limit of their own."""
    max_head_bytes: int
    """Longest request line with its headers."""
    head_seconds: float
    """From a connection's opening, or a request's first byte, to the end of its headers."""
    body_seconds: float
    """From there to the end of the body."""
    keep_alive_seconds: int
    """Between a request's end and the next one's beginning."""
    send_seconds: float
    """How long a client may leave unread what was sent to it."""


def connection_limits(settings: ServerSettings, open_files: int) -> ConnectionLimits:
    """Makes the limits of connections from the settings.

    Args:
        open_files: Most that the process may have open.
    """
    return ConnectionLimits(
        max_connections=max(1, min(settings.max_connections, open_files - _OTHER_FILES)),
        max_per_client=settings.max_connections_per_client,
        max_head_bytes=settings.max_head_size,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        send_seconds=settings.send_seconds,
    )
