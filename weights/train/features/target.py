"""The frozen target as training sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.layers import Slots
from server.models.llama import LlamaParameters
from server.models.parameters import Parameters
from server.models.quantization import Quantization
from weights.quantization import describe


@dataclass(frozen=True, slots=True)
class TrainTarget:
    """A target that is ready to run, and what the draft takes over from it."""

    model: CausalLM
    embedding: torch.Tensor
    """[vocab_size, hidden]"""
    head: torch.Tensor
    """[vocab_size, hidden]"""
    weights: Mapping[str, torch.Tensor]
    """float32, by checkpoint name: those a draft starts from, as far as the target has them."""
    identity: str
    """Identifies the weights; the same in every precision and on every machine."""
    glimpse_layers: tuple[int, ...]
    """Layers that the draft reads, counted from 0."""
    form: str
    """How the weights are kept, such as `bfloat16` or `q4_k and q6_k weights in bfloat16`: features
    of one form are not those of another."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config


def prepare_target(
    parameters: Parameters,
    glimpse_layers: Sequence[int],
    quantization: Quantization | None = None,
) -> TrainTarget:
    """Freezes loaded parameters, keeping what a draft needs.

    Args:
        glimpse_layers: counted from 0.
    """
    slots = parameters.slots()
    names = _wanted(slots, parameters.config.num_layers - 1, glimpse_layers)
    if not isinstance(parameters, LlamaParameters):
        # Other code may mean something else by a norm of the same name, such as 1 + weight.
        names = [name for name in names if slots[name].dim() == 2]
    weights = {name: slots[name].detach().float().clone() for name in names}
    embedding, head = parameters.embedding, parameters.head_weight
    identity = _identity(parameters)
    form = describe(quantization, parameters.placement.dtype)
    model = parameters.freeze(quantization)
    return TrainTarget(model, embedding, head, weights, identity, tuple(glimpse_layers), form)


def _wanted(slots: Slots, last: int, glimpse_layers: Sequence[int]) -> list[str]:
    """Weights of the last layer, of the attention of the layers that are read, and the last
    norm's."""
    prefixes = [f"model.layers.{last}."]
    prefixes += [f"model.layers.{layer}.self_attn." for layer in glimpse_layers]
    return [n for n in slots if n == "model.norm.weight" or n.startswith(tuple(prefixes))]


def _identity(parameters: Parameters) -> str:
    """Digest of the shape and of a sample of every tensor, rounded to bfloat16: a checkpoint that
    was converted to float32 here and to bfloat16 there has one identity."""
    digest = blake2b(repr(parameters.config).encode(), digest_size=12)
    for name, tensor in sorted(parameters.slots().items()):
        sample = tensor.detach().flatten()[:64].to(torch.bfloat16).cpu()
        digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
