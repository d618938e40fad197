"""Who may generate now, who waits at the door, who is sent away. Plain asyncio; knows no HTTP.

A request is here from `enter` to `leave`: first waiting or running, then running, then gone.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from server.api.api_keys import KeyDigest
from server.errors import RateLimitError


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    max_running: int
    max_waiting: int
    max_per_key: int | None = None
    """Of one key: as many may run, and as many wait, so that nobody fills the queue alone."""


class Place:
    """One request's stay. `turn` is done once it runs."""

    __slots__ = ("owner", "turn")

    def __init__(self, owner: KeyDigest | None) -> None:
        self.owner = owner
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """Counts places. For one event loop.

    Invariant: nobody waits who could run. So whoever comes and finds room overtakes nobody.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._running: set[Place] = set()
        self._waiting: dict[Place, None] = {}  # ordered, and O(1) to leave from the middle
        self._running_of = Counter[KeyDigest]()
        self._waiting_of = Counter[KeyDigest]()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def enter(self, owner: KeyDigest | None) -> Place:
        """A place, running or waiting for its turn; to be given to `leave` in any case.

        Args:
            owner: Whose key the request has; None is counted for nobody.

        Raises:
            RateLimitError: it can neither run nor wait.
        """
        place = Place(owner)
        if self._has_room(owner):
            self._run(place)
        else:
            self._check_queue(owner)
            self._waiting[place] = None
            _count(self._waiting_of, owner, 1)
        return place

    def leave(self, place: Place) -> None:
        """Ends a stay, and lets the next one run that can."""
        if place in self._waiting:
            self._end_waiting(place)
            return
        self._running.remove(place)
        _count(self._running_of, place.owner, -1)
        # One place became free, so at most one can take it.
        following = next((other for other in self._waiting if self._has_room(other.owner)), None)
        if following is not None:
            self._end_waiting(following)
            self._run(following)

    def _has_room(self, owner: KeyDigest | None) -> bool:
        if len(self._running) >= self._limits.max_running:
            return False
        return not self._is_at_limit(self._running_of, owner)

    def _is_at_limit(self, counter: Counter[KeyDigest], owner: KeyDigest | None) -> bool:
        limit = self._limits.max_per_key
        return limit is not None and owner is not None and counter[owner] >= limit

    def _check_queue(self, owner: KeyDigest | None) -> None:
        if self._is_at_limit(self._waiting_of, owner):
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
        _count(self._running_of, place.owner, 1)
        place.turn.set_result(None)

    def _end_waiting(self, place: Place) -> None:
        del self._waiting[place]
        _count(self._waiting_of, place.owner, -1)


def _count(counter: Counter[KeyDigest], owner: KeyDigest | None, change: int) -> None:
    if owner is not None:
        counter[owner] += change
        if counter[owner] == 0:
            del counter[owner]  # keys come and go; the counter must not grow with them
