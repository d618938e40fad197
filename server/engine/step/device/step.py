"""One step of the engine as tensor operations alone: what a CUDA graph is captured of.

Shapes follow from the `StepShape`; values never leave the device.
"""

from collections.abc import Sequence

import torch

from server.engine.speculation.tiers import StepShape
from server.engine.step.device.accept import draw, follow
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.commit import move_accepted
from server.engine.step.device.draft import DeviceDraft, nothing_drafted
from server.engine.step.device.expand import Widths, expand
from server.engine.step.device.results import pack
from server.engine.step.device.seats import DeviceSeats
from server.engine.step.device.verify import verify
from server.engine.step.host.verify import Model
from server.kernels.tree import LayerCache


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
        self.draft = draft
        self.widths = widths
        self.addresses = Addresses(block_size, (len(caches[0].keys) - 1) * block_size)

    @torch.inference_mode()
    def __call__(self, shape: StepShape) -> torch.Tensor:
        """Runs a step of the rows that were called; see `results.pack` for what comes back.

        Raises:
            ValueError: a tier that drafts, where nothing can.
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
