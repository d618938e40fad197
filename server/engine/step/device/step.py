"""One step of the engine as tensor operations alone: what a CUDA graph is captured of.

Shapes follow from the `StepShape`; values never leave the device.
"""

from collections.abc import Sequence

import torch

from server.engine.speculation.tiers import StepShape
from server.engine.step.device.accept import Walks, draw, follow
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.draft import DeviceDraft, nothing_drafted
from server.engine.step.device.expand import Trees, Widths, expand
from server.engine.step.device.packing import pack
from server.engine.step.device.seats import DeviceSeats, Rows
from server.engine.step.model import Model
from server.kernels.dispatch import kernels_for
from server.kernels.tree import LayerCache


class DeviceStep:
    """Steps of all shapes.

    Args:
        caches: the target's caches, with one block more than sequences are given.
        draft: drafts chains; None decodes plainly.
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
        self.draft = draft
        self.widths = widths
        self.addresses = Addresses(block_size, (len(caches[0].keys) - 1) * block_size)

    @torch.inference_mode()
    def __call__(self, shape: StepShape) -> torch.Tensor:
        """Runs a step of the rows that were placed by `DeviceSeats.call`; `results.pack` describes
        what comes back.

        Raises:
            ValueError: the tier drafts, and there is no draft.
        """
        if shape.tier.depth and self.draft is None:
            raise ValueError("nothing drafts here")
        addresses, draft = self.addresses, self.draft
        rows = self.seats.read(shape.batch)
        drafted = draft(rows, shape, addresses) if draft else nothing_drafted(rows, shape)
        trees = expand(rows, drafted, shape.tier.nodes, self.widths)
        hidden, logits = verify(self.model, self.caches, rows, trees, shape, addresses)
        walks = follow(trees, *draw(logits, rows, trees, shape.sampling), shape.tier.depth)
        move_accepted(self.caches, rows, walks, addresses)
        if draft is not None:
            tokens = trees.token_ids.gather(1, walks.last[:, None])[:, 0]
            draft.complete(rows, tokens, rows.contexts + walks.num_above, shape, addresses)
        first_rows = torch.arange(shape.batch, device=hidden.device) * shape.tier.nodes
        last_hidden = hidden[first_rows + walks.last][:, : self.seats.hidden.shape[1]]
        newest = walks.token_ids.gather(1, walks.num_above[:, None])[:, 0]
        self.seats.write(rows, walks.counts, newest, last_hidden)
        return pack(shape, rows, drafted, trees, walks, logits)


def verify(
    model: Model,
    caches: Sequence[LayerCache],
    rows: Rows,
    trees: Trees,
    shape: StepShape,
    addresses: Addresses,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's forward over a step's trees. Its twin is `step/host/verify.py`.

    Returns:
        (final hidden states [batch x nodes, hidden], logits [batch x nodes, vocab] float32)
    """
    place = rows.contexts[:, None]
    positions = place + trees.depths
    slots = place + torch.arange(shape.tier.nodes, device=place.device)
    batch = addresses.batch(
        *(rows, positions, slots, trees.is_valid, rows.contexts, shape), trees.ancestors()
    )
    hidden = model(trees.token_ids.flatten(), caches, batch)
    return hidden, model.logits(hidden)


def move_accepted(
    caches: Sequence[LayerCache], rows: Rows, walks: Walks, addresses: Addresses
) -> None:
    """Moves an accepted leaf's KV to the slot of its position. Its twin is `step/host/commit.py`.

    No other node of a comb's path is out of place. Where the leaf is not accepted, the last node's
    KV is copied onto itself.
    """
    first, is_kept = rows.contexts[:, None], rows.is_live[:, None]
    source = addresses.slots(rows, first + walks.last[:, None], is_kept)
    target = addresses.slots(rows, first + walks.num_above[:, None], is_kept)
    kernels_for(caches[0].keys).copy_kv(caches, source[:, 0], target[:, 0])
