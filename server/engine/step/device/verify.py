"""The target's forward over a step's trees, on the device. Its twin is `step/host/verify.py`."""

from collections.abc import Sequence

import torch

from server.engine.speculation.tiers import StepShape
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.expand import Trees
from server.engine.step.device.seats import Rows
from server.engine.step.host.verify import Model
from server.kernels.tree import LayerCache


def verify(
    model: Model,
    caches: Sequence[LayerCache],
    rows: Rows,
    trees: Trees,
    shape: StepShape,
    addresses: Addresses,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
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
