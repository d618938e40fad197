"""Responses kept in memory, and the conversations that they end.

    turn A ◄── turn B ◄── turn C        a response is the end of a chain of turns;
                  ▲                     a turn: the items sent for it, and those it answered
                  └────── turn D

A turn stays as long as a kept response, or a turn of one, comes after it: that B's response was
deleted or pushed out does not break C. All of it counts once, however many responses share it.

Everything is kept as JSON, whose length is what the memory limit counts. Room is shared by owner:
no owner's responses go to make room for those of one that has more.

For one event loop. What turns and items say never changes: threads may read them, and make more.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from server.api.middleware.api_keys import KeyDigest

_logger = logging.getLogger(__name__)

Owner = KeyDigest | None
"""Owner of the key that a response belongs to; None where no keys are needed."""

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]

_RESPONSE_OVERHEAD = 1024
_ITEM_OVERHEAD = 512
"""Bytes of memory around the JSON: objects, keys, the index."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    max_responses: int = 1024
    """0 keeps nothing."""
    max_bytes: int = 64 * 2**20
    seconds_to_live: float = 86_400.0
    """Counted from the end of a response."""


class KeptItem(NamedTuple):
    """One item of a conversation."""

    id: str
    json: bytes


class Turn:
    """Items sent, and what was answered to them.

    Args:
        parent: The turn before.
    """

    __slots__ = ("inputs", "num_bytes", "num_holders", "outputs", "parent")

    def __init__(
        self,
        parent: "Turn | None",
        inputs: Sequence[KeptItem],
        outputs: Sequence[KeptItem] = (),
    ) -> None:
        self.parent = parent
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.num_bytes = sum(len(item.json) + _ITEM_OVERHEAD for item in self.items())
        """Size of its items."""
        self.num_holders = 0
        """Kept responses and turns that need it; the store's business."""

    def chain(self) -> list["Turn"]:
        """The conversation, from its first turn to this one."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn.parent
        return turns[::-1]

    def context(self) -> list[KeptItem]:
        """What the answer of this turn was made from."""
        *earlier, last = self.chain()
        return [item for turn in earlier for item in turn.items()] + list(last.inputs)

    def items(self) -> Iterator[KeptItem]:
        yield from self.inputs
        yield from self.outputs


class KeptResponse:
    """A response in some state; a later state is another object."""

    __slots__ = ("body", "expires_at", "id", "is_deleted", "owner", "status", "turn")

    def __init__(
        self, owner: Owner, id: str, status: ResponseStatus, body: bytes, turn: Turn
    ) -> None:
        self.owner = owner
        self.id = id
        self.status: ResponseStatus = status
        self.body = body
        """The JSON document."""
        self.turn = turn
        self.expires_at = 0.0
        self.is_deleted = False
        """Whether its owner deleted it; False if others only pushed it out."""

    @property
    def num_bytes(self) -> int:
        """Size without its turns."""
        return len(self.body) + _RESPONSE_OVERHEAD


class _Share:
    """Everything that one owner has in the store."""

    __slots__ = ("num_bytes", "responses")

    def __init__(self) -> None:
        self.responses: dict[str, KeptResponse] = {}  # by time of expiry
        self.num_bytes = 0
        """Size of the responses and their turns, which no other owner shares."""


class ResponseStore:
    """Responses within the limits. Where there are too many, the owner that has most of what is
    scarce, number or memory, loses the oldest of its own.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(
        self, limits: StoreLimits = StoreLimits(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._responses: dict[tuple[Owner, str], KeptResponse] = {}  # by time of expiry
        self._shares: dict[Owner, _Share] = {}
        """Shares of the owners that have any response."""
        self._items: dict[tuple[Owner, str], dict[Turn, KeptItem]] = {}
        """Each item, by the turns that have it: several where clients send the answers before back
        themselves."""
        self._num_bytes = 0

    def __len__(self) -> int:
        self._drop_expired()
        return len(self._responses)

    @property
    def num_bytes(self) -> int:
        self._drop_expired()
        return self._num_bytes

    def put(self, response: KeptResponse) -> None:
        """Keeps a response; others make room. One that is too large, alone or for what other owners
        leave of the memory, is not kept."""
        self._drop_expired()
        chain_bytes = sum(turn.num_bytes for turn in response.turn.chain())
        if chain_bytes + response.num_bytes <= self.limits.max_bytes:
            self._add(response)
            while self._is_too_full():
                self._drop(self._next_to_go(response.owner))
        if self.limits.max_responses and (response.owner, response.id) not in self._responses:
            _logger.warning("%s is too large to be kept (--stored-responses-memory)", response.id)

    def replace(self, old: KeptResponse, new: KeptResponse) -> None:
        """Keeps the next state of a response, unless it was deleted in the meantime."""
        if old.is_deleted:
            return
        if self._responses.get((old.owner, old.id)) is old:
            self._drop(old)
        self.put(new)

    def get(self, owner: Owner, response_id: str) -> KeptResponse | None:
        self._drop_expired()
        return self._responses.get((owner, response_id))

    def delete(self, owner: Owner, response_id: str) -> bool:
        """Whether there was one. What later responses go on from stays with those."""
        response = self.get(owner, response_id)
        if response is None:
            return False
        response.is_deleted = True
        self._drop(response)
        return True

    def find_item(self, owner: Owner, item_id: str) -> KeptItem | None:
        """An item of any kept conversation of this owner."""
        self._drop_expired()
        found = self._items.get((owner, item_id))
        return None if found is None else next(reversed(found.values()))

    def _is_too_full(self) -> bool:
        too_many = len(self._responses) > self.limits.max_responses
        return too_many or self._num_bytes > self.limits.max_bytes

    def _next_to_go(self, putting: Owner) -> KeptResponse:
        """The response that makes room: the oldest of the owner that has most.

        Args:
            putting: Owner of the response that came just now. Among equals it gives way itself,
                unless that response is all it has: otherwise a new owner could never get in.
        """
        by_number = len(self._responses) > self.limits.max_responses

        def size(owner: Owner) -> int:
            share = self._shares[owner]
            return len(share.responses) if by_number else share.num_bytes

        # Owners are as many as API keys: few enough to look at each.
        most = max(map(size, self._shares))
        equals = [owner for owner in self._shares if size(owner) == most]
        if putting in equals and (len(self._shares[putting].responses) > 1 or len(equals) == 1):
            equals = [putting]
        oldest = (next(iter(self._shares[owner].responses.values())) for owner in equals)
        return min(oldest, key=lambda response: response.expires_at)

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._responses:
            oldest = next(iter(self._responses.values()))
            if oldest.expires_at > now:
                return
            self._drop(oldest)

    def _add(self, response: KeptResponse) -> None:
        response.expires_at = self._clock() + self.limits.seconds_to_live
        self._responses[response.owner, response.id] = response
        share = self._shares.setdefault(response.owner, _Share())
        share.responses[response.id] = response
        self._count(share, response.num_bytes)
        self._hold(response.owner, response.turn)

    def _drop(self, response: KeptResponse) -> None:
        del self._responses[response.owner, response.id]
        share = self._shares[response.owner]
        del share.responses[response.id]
        self._count(share, -response.num_bytes)
        self._release(response.owner, response.turn)
        if not share.responses:
            del self._shares[response.owner]

    def _count(self, share: _Share, num_bytes: int) -> None:
        share.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def _hold(self, owner: Owner, last: Turn) -> None:
        """Counts a holder of a turn, and with the first holder the turns before it."""
        turn: Turn | None = last
        while turn is not None:
            turn.num_holders += 1
            if turn.num_holders > 1:
                return
            self._count(self._shares[owner], turn.num_bytes)
            for item in turn.items():
                self._items.setdefault((owner, item.id), {})[turn] = item
            turn = turn.parent

    def _release(self, owner: Owner, last: Turn) -> None:
        turn: Turn | None = last
        while turn is not None:
            turn.num_holders -= 1
            if turn.num_holders:
                return
            self._count(self._shares[owner], -turn.num_bytes)
            for item in turn.items():
                places = self._items[owner, item.id]
                del places[turn]
                if not places:
                    del self._items[owner, item.id]
            turn = turn.parent
