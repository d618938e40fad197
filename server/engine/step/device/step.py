"""One step of the engine as tensor operations alone: what a CUDA graph is captured of.

    read seats -> draft -> grow trees -> verify -> draw -> walk -> move KV
        -> complete the draft's KV -> write seats -> what the host wants to know, as one tensor

Shapes follow from the `StepShape`; values never leave the device. Rows of nobody, and nodes that a
tree has fewer of than others, write their KV to one spare slot that no sequence has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.speculation.proposal import NUM_CANDIDATES
from server.engine.speculation.tiers import StepShape
from server.engine.step.device.draw import draw_all
from server.engine.step.device.expand import Drafted, Trees, Widths, grow
from server.engine.step.device.results import pack
from server.engine.step.device.seats import DeviceSeats, Rows
from server.engine.step.device.walk import Walks, follow
from server.engine.step.host.runner import Model
from server.kernels.dispatch import kernels_for
from server.kernels.tree import LayerCache, TreeBatch


class DeviceGlide(Protocol):
    """What is needed of `models/glide.py`; where the host knows no lengths, they are tensors."""

    draft_token_ids: torch.Tensor
    glimpse_hidden: bool

    def draft(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
        verified_lens: torch.Tensor,
        hidden: torch.Tensor | None,
        delay: int,
    ) -> torch.Tensor: ...

    def fill(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """A GliDe draft over its KV."""

    model: DeviceGlide
    caches: Sequence[LayerCache]


class DeviceStep:
    """Steps of all shapes.

    Args:
        caches: of the target, with a block more than sequences are given.
        draft: None decodes plainly.
    """

    def __init__(
        self,
        model: Model,
        caches: Sequence[LayerCache],
        seats: DeviceSeats,
        block_size: int,
        draft: DeviceDraft | None,
        widths: Widths,
    ) -> None:
        self.model = model
        self.caches = caches
        self.seats = seats
        self.block_size = block_size
        self.draft = draft
        self.widths = widths
        self.spare_slot = (len(caches[0].keys) - 1) * block_size

    @torch.inference_mode()
    def __call__(self, shape: StepShape) -> torch.Tensor:
        """Runs a step of the rows that were called; see `outcome.pack` for what comes back."""
        rows = self.seats.read(shape.batch)
        drafted = self._draft(rows, shape)
        trees = grow(rows, drafted, shape.tier.nodes, self.widths)
        hidden, logits = self._verify(rows, trees, shape)
        walks = follow(trees, *draw_all(logits, rows, trees, shape.sampling), shape.tier.depth)
        self._move(rows, walks)
        last = walks.last[:, None]
        tokens = trees.token_ids.gather(1, last)[:, 0]
        self._complete_draft(rows, walks, tokens, shape)
        first_rows = torch.arange(shape.batch, device=last.device) * shape.tier.nodes
        width = self.seats.hidden.shape[1]
        last_hidden = hidden[first_rows + walks.last][:, :width]
        end = (walks.counts - 1).clamp(min=0)[:, None]
        self.seats.write(rows, walks.counts, walks.token_ids.gather(1, end)[:, 0], last_hidden)
        return pack(rows, drafted, trees, walks, logits)

    def _draft(self, rows: Rows, shape: StepShape) -> Drafted:
        """Chains as deep as the tier, each continuing with the most probable token."""
        found = list[tuple[torch.Tensor, torch.Tensor]]()
        tokens, draft = rows.tokens, self.draft
        for step in range(shape.tier.depth):
            if draft is None:
                raise ValueError("nothing drafts here")
            # Of a chain no more is kept than there are slots for.
            kept = rows.is_live & (step < rows.max_nodes)
            place = (rows.contexts + step)[:, None]
            batch = self._batch(rows, place, place, kept[:, None], place[:, 0], shape)
            hidden = rows.hidden if draft.model.glimpse_hidden else None
            logits = draft.model.draft(
                *(tokens, draft.caches, self.caches, batch, rows.contexts, hidden, step + 1)
            )
            count = min(NUM_CANDIDATES, logits.shape[1])
            columns, confidences = kernels_for(logits).top_candidates(logits, count)
            candidates = draft.model.draft_token_ids[columns]
            found.append((candidates, confidences))
            tokens = candidates[:, 0]
        if not found:
            nothing = rows.tokens.new_empty(shape.batch, 0, NUM_CANDIDATES)
            return Drafted(nothing, nothing.float())
        token_ids, confidences = zip(*found, strict=True)
        return Drafted(torch.stack(token_ids, dim=1), torch.stack(confidences, dim=1))

    def _verify(
        self, rows: Rows, trees: Trees, shape: StepShape
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The target's (hidden states [batch x nodes, hidden], logits [batch x nodes, vocab])."""
        place = rows.contexts[:, None]
        positions = place + trees.depths
        slots = place + torch.arange(shape.tier.nodes, device=place.device)
        batch = self._batch(
            *(rows, positions, slots, trees.is_valid, rows.contexts, shape), trees.ancestors()
        )
        hidden = self.model(trees.token_ids.flatten(), self.caches, batch)
        return hidden, self.model.logits(hidden)

    def _move(self, rows: Rows, walks: Walks) -> None:
        """An accepted leaf's KV to the slot of its position. Of a comb's path no other node is out
        of place; where none is, the last node's KV moves to where it is."""
        depth = (walks.counts - 1).clamp(min=0)
        first = rows.contexts[:, None]
        is_kept = rows.is_live[:, None]
        source = self._slots(rows, first + walks.last[:, None], is_kept)
        target = self._slots(rows, first + depth[:, None], is_kept)
        kernels_for(self.caches[0].keys).copy_kv(self.caches, source[:, 0], target[:, 0])

    def _complete_draft(
        self, rows: Rows, walks: Walks, tokens: torch.Tensor, shape: StepShape
    ) -> None:
        """The draft's KV of the last committed token: of those above it drafting has written it.

        Args:
            tokens: [batch] of the last committed nodes.
        """
        if self.draft is None:
            return
        place = (rows.contexts + (walks.counts - 1).clamp(min=0))[:, None]
        batch = self._batch(rows, place, place, rows.is_live[:, None], place[:, 0], shape)
        self.draft.model.fill(tokens, self.draft.caches, self.caches, batch)

    def _batch(
        self,
        rows: Rows,
        positions: torch.Tensor,
        slot_positions: torch.Tensor,
        is_kept: torch.Tensor,
        contexts: torch.Tensor,
        shape: StepShape,
        ancestors: torch.Tensor | None = None,
    ) -> TreeBatch:
        """
        Args:
            positions, slot_positions, is_kept: [batch, nodes] of each node: its position, the one
                in whose slot its KV is kept, and whether it is kept.
            contexts: [batch]
        """
        return TreeBatch(
            positions=positions.flatten(),
            slots=self._slots(rows, slot_positions, is_kept).flatten(),
            block_tables=rows.tables,
            context_lens=(shape.context,) * shape.batch,
            node_counts=(positions.shape[1],) * shape.batch,
            ancestors=ancestors,
            block_size=self.block_size,
            exact_lens=contexts,
        )

    def _slots(self, rows: Rows, positions: torch.Tensor, is_kept: torch.Tensor) -> torch.Tensor:
        """[batch, nodes]; the spare one where nothing is to be kept."""
        columns = (positions // self.block_size).clamp(max=rows.tables.shape[1] - 1)
        slots = rows.tables.gather(1, columns) * self.block_size + positions % self.block_size
        return torch.where(is_kept, slots, self.spare_slot)
