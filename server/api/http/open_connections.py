"""Which connections a server has, and which gives way when there are too many."""

import logging
import time
from collections import OrderedDict
from typing import Protocol

_logger = logging.getLogger(__name__)

_TELL_SECONDS = 60.0
"""Least time between two lines in the log that say the same."""

Host = str | None


class OpenConnection(Protocol):
    """What is asked of a connection."""

    @property
    def host(self) -> Host:
        """The client's address."""
        ...

    @property
    def has_unsent(self) -> bool:
        """An answer is still on its way."""
        ...

    def cut(self) -> None:
        """Closes it at once."""
        ...


class OpenConnections:
    """The connections of one server. Idle ones, on which no complete request is being answered,
    give way: first those of the address that has most of them, the longest idle first.

    All but that is done in constant time: a stranger can connect thousands of times in a second.

    Args:
        max_connections: Most connections of all addresses.
        max_per_host: Most connections of one address; None for no limit.
    """

    def __init__(self, max_connections: int, max_per_host: int | None) -> None:
        self._max_connections = max_connections
        self._max_per_host = max_per_host
        self._of_host: dict[Host, set[OpenConnection]] = {}
        self._idle_of_host: dict[Host, OrderedDict[OpenConnection, None]] = {}
        """The longest idle first."""
        self._num_connections = 0
        self._told_at: float | None = None

    def __len__(self) -> int:
        return self._num_connections

    def enter(self, connection: OpenConnection) -> bool:
        """Makes room for one more, which is idle at first; False if there is none."""
        host = connection.host
        most = self._max_per_host
        if most is not None and len(self._of_host.get(host, ())) >= most and not self._cut(host):
            return False
        if self._num_connections >= self._max_connections:
            self._tell()
            if not self._cut_any():
                return False
        self._of_host.setdefault(host, set()).add(connection)
        self._num_connections += 1
        self.set_idle(connection, True)
        return True

    def leave(self, connection: OpenConnection) -> None:
        """Forgets a connection; does nothing if it is not known."""
        connections = self._of_host.get(connection.host, set())
        if connection not in connections:
            return
        self.set_idle(connection, False)
        connections.remove(connection)
        self._num_connections -= 1
        if not connections:
            del self._of_host[connection.host]

    def set_idle(self, connection: OpenConnection, is_idle: bool) -> None:
        """Notes whether a connection is idle; one that stays idle keeps its time."""
        host = connection.host
        if connection not in self._of_host.get(host, ()):
            return
        if is_idle:
            self._idle_of_host.setdefault(host, OrderedDict()).setdefault(connection)
        elif host in self._idle_of_host:
            idle = self._idle_of_host[host]
            idle.pop(connection, None)
            if not idle:
                del self._idle_of_host[host]

    def _tell(self) -> None:
        now = time.monotonic()
        if self._told_at is None or now - self._told_at > _TELL_SECONDS:
            self._told_at = now
            _logger.warning(
                "%d connections are open, and no more may be (--max-connections): idle ones are"
                " closed, and where there are none new ones refused",
                self._num_connections,
            )

    def _cut_any(self) -> bool:
        hosts = sorted(self._idle_of_host, key=lambda host: -len(self._idle_of_host[host]))
        return any(self._cut(host) for host in hosts)

    def _cut(self, host: Host) -> bool:
        for connection in self._idle_of_host.get(host, ()):
            if not connection.has_unsent:
                self.leave(connection)
                connection.cut()
                return True
        return False
