"""Four ways to choose a replica for a request."""

import hashlib
import random
from bisect import bisect_right
from typing import Protocol

import numpy as np

from bench.scaling.fleet import Fleet, Prompt, smallest
from bench.scaling.prefix_cache import Holders, PrefixCache, ReplicaIndex
from server.replicas.routing.choice import IMBALANCE, OPEN_BLOCKS, RECENT_BLOCKS, Candidate, choose
from server.replicas.routing.recent import fade


class Router(Protocol):
    """Chooses, and learns what it has chosen."""

    def choose(self, prompt: Prompt) -> ReplicaIndex: ...

    def sent(self, prompt: Prompt, replica: ReplicaIndex) -> None:
        """The request went there."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self._size = fleet.size
        self._next = 0

    def choose(self, prompt: Prompt) -> ReplicaIndex:
        replica = ReplicaIndex(self._next)
        self._next = (self._next + 1) % self._size
        return replica

    def sent(self, prompt: Prompt, replica: ReplicaIndex) -> None:
        pass


_MIN_MATCH = 0.1
"""Share of a prompt from which on what is known of it counts."""
_TEXT_IMBALANCE = 10
"""Open requests between the most and the least loaded replica, above which texts don't count."""
_TEXT_BLOCKS = 400_000 // 4 // 16
"""Of each replica that a text router remembers: 400,000 characters."""

_POINTS = 100
"""Places that a replica has on the ring of hashes: with more, their shares differ less."""


def _point(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class ConsistentHash:
    """By the conversation's name: always the same replica, whatever it has to do."""

    def __init__(self, fleet: Fleet) -> None:
        replicas = map(ReplicaIndex, range(fleet.size))
        self._ring = sorted(
            (_point(f"replica {r} {n}"), r) for r in replicas for n in range(_POINTS)
        )
        self._hashes = [point for point, _ in self._ring]

    def choose(self, prompt: Prompt) -> ReplicaIndex:
        place = bisect_right(self._hashes, _point(f"conversation {prompt.own}"))
        return self._ring[place % len(self._ring)][1]

    def sent(self, prompt: Prompt, replica: ReplicaIndex) -> None:
        pass


class TextPrefix:
    """The replica that was sent the longest beginning of the prompt and may have dropped it since,
    as Ray's `PrefixCacheAffinityRouter` does it. Where less than a tenth is known: one that was
    sent least. Where loads differ too much: the idler of two at random.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._draw = random.Random(seed)
        self._holders = Holders()
        indices = map(ReplicaIndex, range(fleet.size))
        self._texts = [PrefixCache(_TEXT_BLOCKS, index, self._holders) for index in indices]
        self._sizes = np.zeros(fleet.size, np.int64)
        """Blocks that are remembered of each replica."""

    def choose(self, prompt: Prompt) -> ReplicaIndex:
        loads = self._fleet.loads
        if loads.max() - loads.min() > _TEXT_IMBALANCE:
            places = self._draw.sample(range(self._fleet.size), 2)
            return ReplicaIndex(min(places, key=loads.__getitem__))
        own, system = self._holders.of(prompt.own), self._holders.of(prompt.system)
        if own:
            found = max(own, key=lambda replica: (own[replica], -loads[replica], -replica))
        elif system:
            found = smallest(loads, system)
        else:
            return self._least_sent()
        known = prompt.known_by(self._texts[found])
        return found if known >= _MIN_MATCH * prompt.num_blocks else self._least_sent()

    def _least_sent(self) -> ReplicaIndex:
        least = np.flatnonzero(self._sizes == self._sizes.min())
        return smallest(self._fleet.loads, [ReplicaIndex(int(place)) for place in least])

    def sent(self, prompt: Prompt, replica: ReplicaIndex) -> None:
        prompt.put_in(self._texts[replica])
        self._sizes[replica] = self._texts[replica].num_used


class BlockPrefix:
    """By the blocks that caches have, as the engines say themselves, and by what replicas have to
    do: the server's own choice (`server.replicas.routing`)."""

    def __init__(self, fleet: Fleet, imbalance: int = IMBALANCE) -> None:
        self._fleet = fleet
        self._imbalance = imbalance
        self._recent = np.zeros(fleet.size)
        """As `RecentRequests` has it, for all at once."""

    def choose(self, prompt: Prompt) -> ReplicaIndex:
        """`choose` among all replicas. Of those that know as much, the one with least to do stands
        for the others, since none of them could be chosen."""
        loads, holders = self._fleet.loads, self._fleet.holders
        busy = OPEN_BLOCKS * loads + RECENT_BLOCKS * self._recent
        busy[loads > loads.min() + self._imbalance] = np.inf
        places = {*holders.of(prompt.own), smallest(busy), smallest(loads)}
        if system := holders.of(prompt.system):
            places.add(smallest(busy, system))
        ordered = sorted(places)
        candidates = [self._candidate(prompt, place) for place in ordered]
        return ordered[choose(candidates, prompt.num_blocks, self._imbalance)]

    def _candidate(self, prompt: Prompt, replica: ReplicaIndex) -> Candidate:
        cache = self._fleet.caches[replica]
        load, recent = int(self._fleet.loads[replica]), float(self._recent[replica])
        return Candidate(prompt.known_by(cache), load, cache.num_used, recent)

    def sent(self, prompt: Prompt, replica: ReplicaIndex) -> None:
        self._recent[replica] += 1
        self._recent /= fade(self._fleet.size)


def routers(fleet: Fleet, seed: int) -> dict[str, Router]:
    """All four by name, without anything that they have learnt."""
    return {
        "round robin": RoundRobin(fleet),
        "consistent hash": ConsistentHash(fleet),
        "text prefix": TextPrefix(fleet, seed),
        "block prefix": BlockPrefix(fleet),
    }
