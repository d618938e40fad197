"""How many requests each replica got lately."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

WINDOW = 32
"""Requests of each replica, in the mean, over which an older one's weight falls to a third."""
_LARGE = 1e12

Replica = TypeVar("Replica", bound=Hashable)


def fade(num_replicas: int) -> float:
    """What the weight of all requests before is divided by when one more comes."""
    return 1 + 1 / (WINDOW * num_replicas)


class RecentRequests(Generic[Replica]):
    """Counts requests, of which each counts the less the more came after it.

    It fades by requests and not by time, since that is how a prefix cache forgets: what it holds of
    a conversation goes when others have asked for the room. So this tells, before anything is lost,
    which replica has more conversations to remember than the others, also of people who are
    reading at the moment and have no request open.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[Replica, float] = defaultdict(float)
        self._weight = 1.0
        """Of the next request. New ones weigh more; so old ones need not be touched."""

    def add(self, replica: Replica, num_replicas: int) -> None:
        """A request goes to one of so many replicas."""
        self._counts[replica] += self._weight
        self._weight *= fade(num_replicas)
        if self._weight > _LARGE:
            for each in self._counts:
                self._counts[each] /= self._weight
            self._weight = 1.0

    def of(self, replica: Replica) -> float:
        return self._counts.get(replica, 0.0) / self._weight

    def keep(self, replicas: Iterable[Replica]) -> None:
        """Forgets all others, and counts new ones as the mean of those that stay: with nothing to
        their name they would get every conversation that begins."""
        replicas = set(replicas)
        stay = {each: count for each, count in self._counts.items() if each in replicas}
        mean = sum(stay.values()) / len(stay) if stay else 0.0
        self._counts = defaultdict(float, {each: stay.get(each, mean) for each in replicas})
