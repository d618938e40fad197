"""A language model over the paged cache, ready to run, whosever code computes its layers."""

from collections.abc import Sequence

import torch

from server.kernels.linear import LinearFn
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import ForwardFn
from server.models.config import ModelConfig
from server.models.layers import Placement


class CausalLM:
    """A model that is ready to run.

    Args:
        forward: everything but the head.
        apply_head: hidden states to this rank's logits, in float32.
        is_fused: `forward` is a native kernel.
        has_threads: `forward` does its products in threads of its own, and torch's would be in
            their way.
    """

    def __init__(
        self,
        config: ModelConfig,
        placement: Placement,
        forward: ForwardFn,
        apply_head: LinearFn,
        is_fused: bool,
        has_threads: bool,
    ) -> None:
        self.config = config
        self.placement = placement
        self.is_fused = is_fused
        self.has_threads = has_threads
        self._forward = forward
        self._apply_head = apply_head

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        """Runs the rows and writes their KV. token_ids: [rows] -> final hidden states [rows,
        hidden], normed."""
        return self._forward(token_ids, caches, batch)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocab_size] float32; on ranks other than 0, only of the rank's
        own tokens."""
        return self.placement.shard.gather_columns(self._apply_head(hidden), self.config.vocab_size)
