"""Which connections a server has, and which gives way when there are too many."""

import logging
import time
from collections import OrderedDict
from typing import Protocol

_logger = logging.getLogger(__name__)

_TELL_SECONDS = 60.0
"""Least time between two lines in the log that say the same."""

Host = str | None


class Member(Protocol):
    """A connection."""

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


class Crowd:
    """The connections of one server. Idle ones, on which no complete request is being answered,
    give way: first those of the address that has most of them, the longest idle first.

    All but that is done in constant time: a stranger can connect thousands of times in a second.

    Args:
        max_members: Most connections.
        max_per_host: Most connections of one address; None for no limit.
    """

    def __init__(self, max_members: int, max_per_host: int | None) -> None:
        self._max_members = max_members
        self._max_per_host = max_per_host
        self._of_host: dict[Host, set[Member]] = {}
        self._idle_of_host: dict[Host, OrderedDict[Member, None]] = {}
        """The longest idle first."""
        self._num_members = 0
        self._told_at: float | None = None

    def __len__(self) -> int:
        return self._num_members

    def enter(self, member: Member) -> bool:
        """Makes room for one more, which is idle at first; False if there is none."""
        host = member.host
        most = self._max_per_host
        if most is not None and len(self._of_host.get(host, ())) >= most and not self._cut(host):
            return False
        if self._num_members >= self._max_members:
            self._tell()
            if not self._cut_any():
                return False
        self._of_host.setdefault(host, set()).add(member)
        self._num_members += 1
        self.set_idle(member, True)
        return True

    def leave(self, member: Member) -> None:
        """Forgets a connection; does nothing if it is not known."""
        members = self._of_host.get(member.host, set())
        if member not in members:
            return
        self.set_idle(member, False)
        members.remove(member)
        self._num_members -= 1
        if not members:
            del self._of_host[member.host]

    def set_idle(self, member: Member, is_idle: bool) -> None:
        """Notes whether a connection is idle; one that stays idle keeps its time."""
        host = member.host
        if member not in self._of_host.get(host, ()):
            return
        if is_idle:
            self._idle_of_host.setdefault(host, OrderedDict()).setdefault(member)
        elif host in self._idle_of_host:
            idle = self._idle_of_host[host]
            idle.pop(member, None)
            if not idle:
                del self._idle_of_host[host]

    def _tell(self) -> None:
        now = time.monotonic()
        if self._told_at is None or now - self._told_at > _TELL_SECONDS:
            self._told_at = now
            _logger.warning(
                "%d connections are open, and no more may be (--max-connections): idle ones are"
                " closed, and where there are none new ones refused",
                self._num_members,
            )

    def _cut_any(self) -> bool:
        hosts = sorted(self._idle_of_host, key=lambda host: -len(self._idle_of_host[host]))
        return any(self._cut(host) for host in hosts)

    def _cut(self, host: Host) -> bool:
        for member in self._idle_of_host.get(host, ()):
            if not member.has_unsent:
                self.leave(member)
                member.cut()
                return True
        return False
