"""What the rest asks of a loaded target, whosever code it is."""

from collections.abc import Iterator
from typing import Protocol

import torch

from server.kernels.quantized import PartWeight
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.layers import Placement, Slots
from server.models.llama import LlamaParameters
from server.models.quantization import Quantization


class ForeignParameters(Protocol):
    """The filled parameters of a model whose code is not ours (`models/hf`); the first members are
    those of `LlamaParameters`."""

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

    def freeze(self, quantization: Quantization | None = None) -> CausalLM:
        """The model, ready to run. Uses the parameters up."""
        ...

    def attention_maps(self, token_ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each layer's attention [sequences, heads, tokens, tokens] over whole sequences
        [sequences, tokens]."""
        ...


Parameters = LlamaParameters | ForeignParameters
