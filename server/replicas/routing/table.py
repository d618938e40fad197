"""What a front knows of the replicas: their blocks, and the requests that are open at them.

Knows nothing of Ray: `router.py` brings the two together.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from server.replicas.routing.choice import Candidate, choose
from server.replicas.routing.known_blocks import KnownBlocks
from server.replicas.routing.recent import RecentRequests

MAX_BLOCKS = 2**16
"""Of a replica that are remembered: a million tokens in blocks of 16."""


class Published(NamedTuple):
    """What a replica says of itself, every few seconds."""

    number: int
    """Another one with each change."""
    blocks: frozenset[bytes]
    is_complete: bool
    num_open: Mapping[str, int]
    """Open requests, by front."""


class RoutingTable:
    """Chooses replicas for one front.

    Args:
        imbalance: See `choose`.
        stale_seconds: See `KnownBlocks`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        imbalance: int,
        stale_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._imbalance = imbalance
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._known: dict[str, KnownBlocks] = {}
        self._published: dict[str, Published] = {}
        self._open: dict[str, str] = {}
        """Open calls of this front, and the replica of each."""
        self._num_open = Counter[str]()
        """How many of them each replica has."""
        self._recent = RecentRequests[str]()
        """Of this front: with several, each evens out its own."""

    def set_replicas(self, names: Collection[str]) -> None:
        """Forgets replicas that are gone, and takes in new ones."""
        for name in self._known.keys() - set(names):
            del self._known[name]
            self._published.pop(name, None)
        for name in names:
            if name not in self._known:
                self._known[name] = KnownBlocks(MAX_BLOCKS, self._stale_seconds)
        self._recent.keep(names)

    def publish(self, name: str, published: Published) -> None:
        """Takes what a replica says of itself."""
        before = self._published.get(name)
        if name in self._known and (before is None or before.number != published.number):
            self._published[name] = published
            self._known[name].publish(published.blocks, published.is_complete, self._clock())

    def load(self, name: str, front: str) -> int:
        """Requests that are open at a replica: this front's by its own count, others' by the
        replica's."""
        published = self._published.get(name)
        others = 0
        if published is not None:
            others = sum(n for key, n in published.num_open.items() if key != front)
        return others + self._num_open[name]

    def choose(
        self, names: Sequence[str], blocks: Sequence[bytes], front: str, avoid: Collection[str]
    ) -> str:
        """The replica for a request.

        Args:
            names: At least one.
            blocks: The prompt's full ones.
            avoid: Replicas that failed with it; taken only where there is no other.
        """
        names = [name for name in names if name not in avoid] or names
        candidates = [self._candidate(name, blocks, front) for name in names]
        return names[choose(candidates, len(blocks), self._imbalance)]

    def _candidate(self, name: str, blocks: Sequence[bytes], front: str) -> Candidate:
        load, known = self.load(name, front), self._known.get(name)
        recent = self._recent.of(name)
        if known is None:
            return Candidate(0, load, recent=recent)
        return Candidate(known.num_leading(blocks), load, len(known), recent)

    def opened(self, call_id: str, name: str, blocks: Sequence[bytes]) -> None:
        """Counts a call as open at a replica, from its choice on: of requests that come at once,
        the second has to know of the first. A call that is chosen for again, since the replica
        took no more, counts where it goes now, and once among the recent ones."""
        if call_id not in self._open:
            self._recent.add(name, max(len(self._known), 1))
        self.closed(call_id)
        self._open[call_id] = name
        self._num_open[name] += 1
        self.keeps(name, blocks)

    def replica_of(self, call_id: str) -> str | None:
        """The replica that a call is open at."""
        return self._open.get(call_id)

    def closed(self, call_id: str) -> str | None:
        """Counts a call no more; returns the replica that it was open at, if it was."""
        name = self._open.pop(call_id, None)
        if name is not None:
            self._num_open[name] -= 1
            if not self._num_open[name]:
                del self._num_open[name]
        return name

    def keeps(self, name: str, blocks: Sequence[bytes]) -> None:
        """Notes blocks that a replica has from now on."""
        known = self._known.get(name)
        if known is not None:
            known.add(blocks, self._clock())
