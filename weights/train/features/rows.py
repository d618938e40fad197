"""What features keep of rows that the target has computed, in the form in which they are stored."""

from collections.abc import Sequence

import torch

from server.kernels.tree import LayerCache
from weights.train.features.labels import SoftLabels


def glimpsed_kv(
    caches: Sequence[LayerCache], layers: Sequence[int], slots: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Keys and values at some slots: [slots, layers, 2, kv_heads, head_dim] on the CPU.

    Args:
        caches: all of the target's layers.
        layers: those that the draft reads, counted from 0; may be none.
        slots: [slots] int64.
    """
    if not layers:
        shape = (len(slots), 0, 2, *caches[0].keys.shape[2:])
        return torch.empty(shape, dtype=dtype)
    parts = [
        torch.stack([pool.flatten(0, 1)[slots] for pool in caches[layer]], dim=1)
        for layer in layers
    ]
    return torch.stack(parts, dim=1).to(dtype).cpu()


def stored_labels(labels: SoftLabels) -> dict[str, torch.Tensor]:
    """Labels by their names in a shard, on the CPU."""
    return {
        "probs": labels.probs.to(torch.float16).cpu(),
        "token_ids": labels.token_ids.int().cpu(),
        "rest": labels.rest.to(torch.float16).cpu(),
    }
