"""What the device keeps of each sequence between steps, and what the host knows of that.

Each sequence has a *seat*: a row of `DeviceSeats`' tensors, where a step reads the last token, how
many tokens are committed and the target's hidden state, and leaves the same for the next step. The
last seat is that of padding rows: steps are captured for fixed numbers of rows.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from server.engine.types import BlockId, PolicyName, RequestId

POLICIES: tuple[PolicyName, ...] = ("off", "chain", "cape", "auto")
"""Policies of steps on the device; a policy's code is its index."""


class Controls(NamedTuple):
    """What the host sends for one row of a step."""

    seat: int
    is_live: bool
    """False for padding rows."""
    is_fresh: bool
    """Whether the next three replace what the seat has."""
    token: int
    """The last known token, whose KV is not written yet."""
    context: int
    """Committed tokens."""
    tokens_left: int
    """Tokens that may still be emitted."""
    max_depth: int
    max_nodes: int
    """Nodes that there are slots for, the root included."""
    policy: int
    seed: int
    top_k: int
    temperature: float
    top_p: float
    min_p: float

    def packed(self) -> list[int]:
        """The fields as int64; floats are stored by their bits."""
        return [_bits(value) if isinstance(value, float) else int(value) for value in self]


_NUM_FLOATS = 3


class Rows(NamedTuple):
    """A step's sequences. Tensors [batch] where no other shape is given. Nothing that padding rows
    compute may be kept."""

    seats: torch.Tensor
    is_live: torch.Tensor
    tokens: torch.Tensor
    contexts: torch.Tensor
    """At least 1, so that a padding row too attends to something and computes no NaN."""
    tokens_left: torch.Tensor
    max_depth: torch.Tensor
    """Longest path, also limited by the tokens that are left of the answer."""
    max_nodes: torch.Tensor
    policies: torch.Tensor
    seeds: torch.Tensor
    top_k: torch.Tensor
    temperatures: torch.Tensor
    """float32, as are the next two"""
    top_p: torch.Tensor
    min_p: torch.Tensor
    tables: torch.Tensor
    """[batch, columns] int64"""
    hidden: torch.Tensor
    """[batch, width]; width 0 where the draft takes none."""


class DeviceSeats:
    """The seats' tensors.

    Args:
        columns: columns of a block table.
        hidden: width and precision of the target's hidden states; width 0 where they are not used.
    """

    def __init__(
        self, num_seats: int, columns: int, hidden: tuple[int, torch.dtype], device: torch.device
    ) -> None:
        self.padding_seat = num_seats
        self.device = device
        rows, width = num_seats + 1, hidden[0]
        self.tokens, self.contexts, self.tokens_left = (
            torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self.tables = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        self.hidden = torch.zeros(rows, width, dtype=hidden[1], device=device)
        self.hidden_before = torch.zeros_like(self.hidden)
        """The hidden states as they were before the latest step."""
        self.controls = torch.zeros(rows, len(Controls._fields), dtype=torch.int64, device=device)
        self.fill_with_padding()

    def fill_with_padding(self) -> None:
        """Fills the batch with padding rows, so that the step has no effect."""
        row = torch.tensor(self.padding_row().packed())
        self.controls.copy_(row.expand_as(self.controls))

    def padding_row(self) -> Controls:
        return Controls(self.padding_seat, False, True, 0, 1, 0, 0, 1, 0, 0, 0, 0.0, 1.0, 0.0)

    def call(self, rows: Sequence[Controls], batch: int) -> None:
        """Sets the next step's rows, filled up with padding rows to `batch`."""
        empty = [self.padding_row()] * (batch - len(rows))
        values = self.upload([control.packed() for control in (*rows, *empty)])
        self.controls[:batch].copy_(values)

    def place_blocks(self, cells: Sequence[tuple[int, int, BlockId]]) -> None:
        """Writes block tables; cells: (seat, column, block id)."""
        if cells:
            seats, columns, blocks = self.upload(list(cells)).unbind(dim=1)
            self.tables.index_put_((seats, columns), blocks)

    def place_hidden(self, seats: Sequence[int], hidden: Sequence[torch.Tensor]) -> None:
        """Writes hidden states, [width] each."""
        if seats:
            self.hidden.index_copy_(0, self.upload(list(seats)), torch.stack(list(hidden)))

    def take_back(self, seats: Sequence[int]) -> None:
        """Undoes what the latest step did to hidden states."""
        if seats:
            index = self.upload(list(seats))
            self.hidden.index_copy_(0, index, self.hidden_before[index])

    def read(self, batch: int) -> Rows:
        """The rows of the latest `call`."""
        controls = self.controls[:batch]
        columns = controls.unbind(dim=1)
        seats, is_live, is_fresh, token, context, left = columns[:6]
        floats = controls[:, -_NUM_FLOATS:].int().view(torch.float32).unbind(dim=1)
        fresh = is_fresh != 0
        tokens_left = torch.where(fresh, left, self.tokens_left[seats])
        live = (is_live != 0) & (tokens_left > 0)
        contexts = torch.where(fresh, context, self.contexts[seats])
        max_depth, max_nodes, policies, seeds, top_k = columns[6:-_NUM_FLOATS]
        return Rows(
            seats=seats,
            is_live=live,
            tokens=torch.where(fresh, token, self.tokens[seats]),
            contexts=torch.where(live, contexts, 1),
            tokens_left=tokens_left,
            max_depth=torch.minimum(max_depth, tokens_left - 1),
            max_nodes=max_nodes,
            policies=policies,
            seeds=seeds,
            top_k=top_k,
            temperatures=floats[0],
            top_p=floats[1],
            min_p=floats[2],
            tables=self.tables[seats],
            hidden=self.hidden[seats],
        )

    def write(
        self, rows: Rows, counts: torch.Tensor, tokens: torch.Tensor, hidden: torch.Tensor
    ) -> None:
        """Stores what the next step reads.

        Args:
            counts: [batch] committed tokens; rows with 0 keep everything.
            tokens: [batch] last known tokens.
            hidden: [batch, width]
        """
        seats, moved = rows.seats, counts > 0
        self.tokens.index_copy_(0, seats, torch.where(moved, tokens, rows.tokens))
        self.contexts.index_copy_(0, seats, rows.contexts + counts)
        self.tokens_left.index_copy_(0, seats, rows.tokens_left - counts)
        self.hidden_before.index_copy_(0, seats, rows.hidden)
        self.hidden.index_copy_(0, seats, torch.where(moved[:, None], hidden, rows.hidden))

    def upload(self, values: Sequence[object]) -> torch.Tensor:
        """Copies values as int64 without waiting for the device: torch does not reuse pinned memory
        before it is read."""
        if self.device.type == "cpu":
            return torch.tensor(values)
        return torch.tensor(values, pin_memory=True).to(self.device, non_blocking=True)


@dataclass(slots=True)
class Seat:
    """What the host knows of one sequence on the device."""

    index: int
    context: int = -1
    """Committed tokens after the last step whose outcome was read; -1 for not seated yet."""
    token: int = -1
    """The last known token after that step."""
    blocks: list[BlockId] = field(default_factory=list[BlockId])
    """Its row of the block tables."""
    num_undecided: int = 0
    """Tokens that the device could not draw."""

    def new_cells(self, block_ids: Sequence[BlockId]) -> list[tuple[int, int, BlockId]]:
        """Brings its row of the block tables up to date; returns the cells to be written."""
        num_known = len(self.blocks)
        first = num_known if block_ids[:num_known] == self.blocks else 0
        self.blocks = list(block_ids)
        return [(self.index, i, self.blocks[i]) for i in range(first, len(self.blocks))]


class SeatMap:
    """Maps sequences to seats."""

    def __init__(self, num_seats: int) -> None:
        self._seats: dict[RequestId, Seat] = {}
        self._free = list(range(num_seats))

    def get(self, request_id: RequestId) -> Seat | None:
        return self._seats.get(request_id)

    def take(self, request_id: RequestId, planned: set[RequestId]) -> Seat:
        """The request's seat, or a free one, or that of a request that is not planned (it was
        preempted)."""
        seat = self._seats.get(request_id)
        if seat is not None:
            return seat
        if not self._free:
            absent = next(name for name in self._seats if name not in planned)
            self.leave(absent)
        seat = self._seats[request_id] = Seat(self._free.pop())
        return seat

    def leave(self, request_id: RequestId) -> None:
        """Frees the request's seat."""
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            self._free.append(seat.index)


def _bits(value: float) -> int:
    return struct.unpack("<i", struct.pack("<f", value))[0]
