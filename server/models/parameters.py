"""What the rest asks of a loaded target, whosever code it is."""

from typing import Protocol

import torch

from server.kernels.quantized import PartWeight
from server.models.config import ModelConfig
from server.models.layers import Placement, Slots
from server.models.llama import LlamaModel
from server.models.quantization import Quantization


class Parameters(Protocol):
    """A model's parameters, filled: `LlamaParameters`, or `HFParameters`."""

    config: ModelConfig
    placement: Placement
    embedding: torch.Tensor
    """[vocab_size, hidden], or this rank's part."""
    head_weight: torch.Tensor
    """[vocab_size, hidden], or this rank's part; the embedding where the two are tied."""

    def slots(self) -> Slots:
        """Names of the parameters -> themselves."""
        ...

    def head(self, quantization: Quantization | None = None) -> PartWeight:
        """The head's weight in the form it is kept in."""
        ...

    def freeze(self, quantization: Quantization | None = None) -> LlamaModel:
        """The model, ready to run. Uses the parameters up."""
        ...
