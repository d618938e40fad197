"""Who may generate now, who waits at the door, who is sent away. Plain asyncio; knows no HTTP.

A request is here from `enter` to `leave`: first waiting or running, then running, then gone. It
counts as one generation until `resize` says as how many.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from server.api.door.api_keys import KeyDigest
from server.errors import RateLimitError


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    max_running: int
    max_waiting: int
    max_per_key: int | None = None
    """Of one key: as many may run, and as many wait, so that nobody fills the queue alone."""


class Place:
    """One request's stay. `turn` is done once it runs; `number` says who came first."""

    __slots__ = ("number", "owner", "turn", "weight")

    def __init__(self, owner: KeyDigest | None, number: int) -> None:
        self.owner = owner
        self.number = number
        self.weight = 1
        """Generations."""
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """Counts places. For one event loop.

    First come, first served, but for those whose key is at its limit: they hold up nobody else's.
    So a request of many generations waits until enough places are free at once, and those that
    came after it wait too.
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
        """A place, running or waiting for its turn; to be given to `leave` in any case.

        Args:
            owner: Whose key the request has; None is counted for nobody.

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
        """A running request is so many generations, or as many as may run at all. Where there is
        no room for them it gives its place back and waits for a new `turn`, before all who came
        after it; however many wait, it is not sent away."""
        self._stop(place)
        place.weight = min(weight, self._limits.max_running)
        if place.owner is not None and self._limits.max_per_key is not None:
            place.weight = min(place.weight, self._limits.max_per_key)
        place.turn = asyncio.get_running_loop().create_future()
        self._wait(place)
        self._run_next()

    def leave(self, place: Place) -> None:
        """Ends a stay, and lets the next one run that can."""
        if place in self._waiting:
            self._end_waiting(place)
        else:
            self._stop(place)
        self._run_next()

    def _run_next(self) -> None:
        """Lets everybody run who can, in order."""
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
