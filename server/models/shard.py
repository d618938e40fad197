"""Which part of a model a process holds, and the collectives that make the parts one model.

Column-parallel matrices (q, k, v, gate, up) give each rank some of the outputs; row-parallel ones
(o, down) take these and give partial sums, which `Shard.sum` completes. The residual stream is on
every rank, whole. The drawing is in docs/parallel.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn import functional as F

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""A rank's partial sum [...] -> the sum of all ranks' [...]; may write into its argument."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `size` equal ranks of torch.distributed's default group; rank 0 of 1 has the whole
    model and communicates with nobody."""

    rank: int = 0
    size: int = 1

    @property
    def is_whole(self) -> bool:
        return self.size == 1

    @property
    def reduce(self) -> Reduce | None:
        """What completes a row-parallel product; None on a single rank, where it is complete."""
        return None if self.is_whole else self.sum

    def span(self, total: int) -> range:
        """This rank's part of columns or of a vocabulary: equal parts, the last may be shorter.

        61 over 2 ranks: [0, 31) and [31, 61).
        """
        part = -(-total // self.size)
        return range(min(self.rank * part, total), min((self.rank + 1) * part, total))

    def splits_heads(self, num_heads: int, num_kv_heads: int) -> bool:
        """Whether attention can be split over the ranks: query heads in equal parts, each with the
        KV head that it reads. Where there are fewer KV heads than ranks, several ranks hold one."""
        kv_fits = num_kv_heads % self.size == 0 or self.size % num_kv_heads == 0
        return num_heads % self.size == 0 and kv_fits

    def kv_heads(self, total: int) -> range:
        """This rank's KV heads; see `splits_heads`.

        2 heads over 2 ranks: [0, 1) and [1, 2); over 4 ranks: [0, 1), [0, 1), [1, 2), [1, 2).
        """
        if total % self.size == 0:
            return self.span(total)
        head = self.rank * total // self.size
        return range(head, head + 1)

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Sums over all ranks, in place; each rank gets the sum."""
        if not self.is_whole:
            distributed.all_reduce(partial)
        return partial

    def lookup(self, table: torch.Tensor, ids: torch.Tensor, total: int) -> torch.Tensor:
        """Rows of a table that is split over the ranks, on every rank.

        Args:
            table: [len(span(total)), width], this rank's rows.
            ids: [rows] int64, indices into the whole table.
            total: number of rows of the whole table.

        Returns:
            [rows, width], exactly the table's rows: all other ranks add zeros.
        """
        if self.is_whole:
            return table[ids]
        mine = self.span(total)
        is_mine = (ids >= mine.start) & (ids < mine.stop)
        if not mine:
            found = table.new_zeros(len(ids), table.shape[1])
        else:
            found = table[torch.where(is_mine, ids - mine.start, 0)]
            found = found.masked_fill_(~is_mine[:, None], 0)
        return self.sum(found)

    def gather_columns(self, mine: torch.Tensor, total: int) -> torch.Tensor:
        """Joins columns that `span` split, on rank 0, which alone draws tokens.

        Args:
            mine: [rows, len(span(total))]

        Returns:
            [rows, total] on rank 0; `mine` elsewhere.
        """
        if self.is_whole:
            return mine
        width = -(-total // self.size)  # collectives need equal sizes
        padded = F.pad(mine, (0, width - mine.shape[1])).contiguous()
        if self.rank:
            distributed.gather(padded, dst=0)
            return mine
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.gather(padded, parts, dst=0)
        return torch.cat(parts, dim=1)[:, :total]


WHOLE = Shard()
"""No tensor parallelism."""
