"""The target model, as steps see it."""

from collections.abc import Sequence
from typing import Protocol

import torch

from server.kernels.tree import LayerCache, TreeBatch


class Model(Protocol):
    """What a step needs of a target model (`models/causal_lm.py`)."""

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...
