"""What a front asks of replicas, and what comes back. Parts that only the front's own router reads
do not travel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.engine.outputs import FinishedRequest, RequestOutput
from server.engine.schedule.blocks import BlockHash, chain_hash, root_hash
from server.engine.types import (
    FinishReason,
    Request,
    RequestId,
)
from server.errors import GlidecapeError
from server.replicas.routing.known_blocks import shortened


class FrontAddress(NamedTuple):
    """Where a front takes outputs, and how a replica shows that it was told so."""

    name: str
    """Of the front; no two have one."""
    endpoint: str
    """tcp://HOST:PORT"""
    public_key: bytes
    secret_key: bytes
    """Of the replicas' end, as is the public one."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class RunCall:
    """A request for whichever replica the router chooses. It is over when the request is."""

    front: FrontAddress
    request: Request
    avoid: frozenset[str] = frozenset()
    """Replicas that failed with it."""
    block_size: int = 0
    """Of the prefix cache; 0 where there is none."""
    token_ids: list[int] = field(default_factory=list[int])
    """Prompt and answer so far."""
    on_routed: Callable[[str], None] | None = None
    """Told which replica has taken it; in the router's thread."""

    is_given_up: bool = False
    """It was cancelled before a replica had taken it, of which Serve tells nobody."""
    is_answered: bool = False
    """The front has all it wants of it; Serve tells of its end milliseconds later."""

    def blocks(self) -> list[bytes]:
        """What stands for the full blocks of prompt and answer so far."""
        if not self.block_size:
            return []
        parent, hashes = root_hash(self.request.cache_salt), list[BlockHash]()
        for end in range(self.block_size, len(self.token_ids) + 1, self.block_size):
            parent = chain_hash(parent, self.token_ids[end - self.block_size : end])
            hashes.append(parent)
        return shortened(hashes)

    def __reduce__(self) -> tuple[object, ...]:
        return RunCall, (self.front, self.request)


@dataclass(eq=False, slots=True)
class AddressedCall:
    """A call for one replica."""

    replica: str
    on_unknown: Callable[[], None] | None = None
    """Told that requests can't be sent to that replica any more; in the router's thread."""

    def __reduce__(self) -> tuple[object, ...]:
        return AddressedCall, (self.replica,)


@dataclass(frozen=True, slots=True)
class Finish:
    """Ends a request from outside."""

    request_id: RequestId
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class PackedError:
    """An error of the server's own tree on its way between processes: `pickle` would call its class
    with the finished message."""

    error_class: type[GlidecapeError]
    args: tuple[Any, ...]
    fields: dict[str, Any]

    @classmethod
    def of(cls, error: GlidecapeError) -> "PackedError":
        return cls(type(error), error.args, dict(vars(error)))

    def unpacked(self) -> GlidecapeError:
        error = self.error_class.__new__(self.error_class)
        error.args = self.args
        vars(error).update(self.fields)
        return error


@dataclass(frozen=True, slots=True)
class Batch:
    """What a replica has for a front."""

    outputs: tuple[RequestOutput, ...]
    errors: tuple[tuple[RequestId, PackedError], ...] = ()
    """Of requests that are over; behind their outputs."""
    ended: tuple[FinishedRequest, ...] = ()
    """What ended in the engine, for log and traces; without the prompts, which the front has."""
