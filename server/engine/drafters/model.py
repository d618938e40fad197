"""An independent small language model as draft: the classic baseline (Leviathan et al., 2023)."""

from collections.abc import Sequence
from typing import Protocol

import torch

from server.engine.drafters.neural import NeuralDrafter
from server.engine.schedule.plan import PlannedSequence
from server.engine.step.inputs import StepInputs
from server.kernels.tree import LayerCache, TreeBatch


class LanguageModel(Protocol):
    """A causal language model with the target's vocabulary (`models/llama.py`)."""

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


class ModelDrafter(NeuralDrafter):
    """Drafts with a language model.

    Args:
        caches: the draft model's own layers, under the target's block ids.
    """

    name = "draft_model"

    def __init__(
        self,
        model: LanguageModel,
        caches: Sequence[LayerCache],
        block_size: int,
        device: torch.device,
    ) -> None:
        super().__init__(block_size, device)
        self.model = model
        self.caches = caches

    def _logits(
        self,
        inputs: StepInputs,
        rows: torch.Tensor,
        sequences: Sequence[PlannedSequence],
        depth: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = self.model(inputs.token_ids, self.caches, inputs.batch)
        return self.model.logits(hidden[rows]), None

    def _fill(self, inputs: StepInputs) -> None:
        self.model(inputs.token_ids, self.caches, inputs.batch)
