"""Where a device step's nodes write their KV, and what attention sees of them."""

from typing import NamedTuple

import torch

from server.engine.speculation.tiers import StepShape
from server.engine.step.device.seats import Rows
from server.kernels.tree import TreeBatch


class Addresses(NamedTuple):
    """The KV pool's layout. Padding rows, and the padding nodes of smaller trees, write their KV to
    one spare slot that no sequence has."""

    block_size: int
    spare_slot: int

    def batch(
        self,
        rows: Rows,
        positions: torch.Tensor,
        slot_positions: torch.Tensor,
        is_kept: torch.Tensor,
        contexts: torch.Tensor,
        shape: StepShape,
        ancestors: torch.Tensor | None = None,
    ) -> TreeBatch:
        """A forward's rows, as models take them.

        Args:
            positions, slot_positions, is_kept: [batch, nodes] each node's position, the position in
                whose slot its KV is kept, and whether it is kept.
            contexts: [batch] tokens before the nodes.
            ancestors: [batch x nodes, nodes] bool; None for chains.
        """
        return TreeBatch(
            positions=positions.flatten(),
            slots=self.slots(rows, slot_positions, is_kept).flatten(),
            block_tables=rows.tables,
            context_lens=(shape.context,) * shape.batch,
            node_counts=(positions.shape[1],) * shape.batch,
            ancestors=ancestors,
            block_size=self.block_size,
            exact_lens=contexts,
        )

    def slots(self, rows: Rows, positions: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
        """[batch, nodes] slots of positions; the spare one where nothing is to be kept."""
        columns = (positions // self.block_size).clamp(max=rows.tables.shape[1] - 1)
        slots = rows.tables.gather(1, columns) * self.block_size + positions % self.block_size
        return torch.where(is_kept, slots, self.spare_slot)
