"""Which requests may generate now, which wait, and which are refused. Plain asyncio; knows no HTTP.

A request has a place from `enter` to `leave`: it may wait first, and then it runs. It counts as one
generation until `resize` says how many it is.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from server.api.middleware.api_keys import KeyDigest
from server.errors import RateLimitError


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    max_running: int
    max_waiting: int
    max_per_key: int | None = None
    """So many requests of one key may run, and as many may wait, so that no client fills the queue
    alone."""


class Place:
    """One request's place. `turn` is done once the request runs; `number` orders by arrival."""

    __slots__ = ("number", "owner", "turn", "weight")

    def __init__(self, owner: KeyDigest | None, number: int) -> None:
        self.owner = owner
        self.number = number
        self.weight = 1
        """Generations."""
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """Counts places. For one event loop.

    First come, first served, except that a request whose key is at its limit does not hold up
    other keys. A request of many generations waits until enough places are free at once, and those
    that came after it wait too.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._running: set[Place] = set()
        self._waiting: dict[Place, None] = {}  # ordered, and O(1) to leave from the middle
        self._num_running = 0
        self._num_entered = 0
        self._running_of = Counter[KeyDigest]()
        self._waiting_of = Counter[KeyDigest]()

    @property
    def num_running(self) -> int:
        """Generations."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """Requests."""
        return len(self._waiting)

    def enter(self, owner: KeyDigest | None) -> Place:
        """Returns a place, running or waiting for its turn. It has to be given to `leave`.

        Args:
            owner: Owner of the request's key; None is held to no limit per key.

        Raises:
            RateLimitError: it can neither run nor wait.
        """
        place = Place(owner, self._num_entered)
        self._num_entered += 1
        self._wait(place)
        self._run_next()
        if place in self._waiting:
            self._end_waiting(place)
            self._check_queue(owner)
            self._wait(place)
        return place

    def resize(self, place: Place, weight: int) -> None:
        """Makes a running request count as so many generations, or as many as may run at all.

        Without room for them it gives its place back and waits for a new `turn`, ahead of all that
        came after it. It is not refused, however many wait.
        """
        self._stop(place)
        place.weight = min(weight, self._limits.max_running)
        if place.owner is not None and self._limits.max_per_key is not None:
            place.weight = min(place.weight, self._limits.max_per_key)
        place.turn = asyncio.get_running_loop().create_future()
        self._wait(place)
        self._run_next()

    def leave(self, place: Place) -> None:
        """Gives a place back, and starts what can run now."""
        if place in self._waiting:
            self._end_waiting(place)
        else:
            self._stop(place)
        self._run_next()

    def _run_next(self) -> None:
        """Starts all waiting requests that can run, in order."""
        held_up: set[KeyDigest | None] = set()
        for place in list(self._waiting):
            if place.owner in held_up:
                continue
            if self._exceeds_key(self._running_of, place.owner, place.weight):
                held_up.add(place.owner)
            elif self._num_running + place.weight > self._limits.max_running:
                return
            else:
                self._end_waiting(place)
                self._run(place)

    def _exceeds_key(
        self, counter: Counter[KeyDigest], owner: KeyDigest | None, weight: int
    ) -> bool:
        limit = self._limits.max_per_key
        return limit is not None and owner is not None and counter[owner] + weight > limit

    def _check_queue(self, owner: KeyDigest | None) -> None:
        if self._exceeds_key(self._waiting_of, owner, 1):
            limit = self._limits.max_per_key
            raise RateLimitError(
                f"too many requests with this API key: {limit} run and {limit} wait; try again"
                " later"
            )
        if len(self._waiting) >= self._limits.max_waiting:
            raise RateLimitError(
                f"too many requests: {self.num_running} run and {self.num_waiting} wait; try again"
                " later"
            )

    def _run(self, place: Place) -> None:
        self._running.add(place)
        self._num_running += place.weight
        _count(self._running_of, place.owner, place.weight)
        place.turn.set_result(None)

    def _stop(self, place: Place) -> None:
        self._running.remove(place)
        self._num_running -= place.weight
        _count(self._running_of, place.owner, -place.weight)

    def _wait(self, place: Place) -> None:
        is_last = not self._waiting or place.number > next(reversed(self._waiting)).number
        self._waiting[place] = None
        if not is_last:
            self._waiting = dict.fromkeys(sorted(self._waiting, key=lambda each: each.number))
        _count(self._waiting_of, place.owner, 1)

    def _end_waiting(self, place: Place) -> None:
        del self._waiting[place]
        _count(self._waiting_of, place.owner, -1)


def _count(counter: Counter[KeyDigest], owner: KeyDigest | None, change: int) -> None:
    if owner is not None:
        counter[owner] += change
        if counter[owner] == 0:
            del counter[owner]  # keys come and go; the counter must not grow with them
