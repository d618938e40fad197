"""The frozen target as training sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from server.models.config import ModelConfig
from server.models.llama import LlamaModel
from server.models.parameters import Parameters
from server.models.quantization import Quantization
from weights.quantization import describe


@dataclass(frozen=True, slots=True)
class TrainTarget:
    """A target that is ready to run, and what the draft takes over from it."""

    model: LlamaModel
    embedding: torch.Tensor
    """[vocab_size, hidden]"""
    head: torch.Tensor
    """[vocab_size, hidden]"""
    weights: Mapping[str, torch.Tensor]
    """float32, by checkpoint name: those a draft starts from."""
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
    slots, last = parameters.slots(), parameters.config.num_layers - 1
    names = [name for name in slots if name.startswith(f"model.layers.{last}.")]
    for layer in glimpse_layers:
        names += [name for name in slots if name.startswith(f"model.layers.{layer}.self_attn.")]
    weights = {name: slots[name].detach().float().clone() for name in names}
    weights["model.norm.weight"] = slots["model.norm.weight"].detach().float().clone()
    embedding, head = parameters.embedding, parameters.head_weight
    identity = _identity(parameters)
    form = describe(quantization, parameters.placement.dtype)
    model = parameters.freeze(quantization)
    return TrainTarget(model, embedding, head, weights, identity, tuple(glimpse_layers), form)


def _identity(parameters: Parameters) -> str:
    """Digest of the shape and of a sample of every tensor, rounded to bfloat16: a checkpoint that
    was converted to float32 here and to bfloat16 there has one identity."""
    digest = blake2b(repr(parameters.config).encode(), digest_size=12)
    for name, tensor in sorted(parameters.slots().items()):
        sample = tensor.detach().flatten()[:64].to(torch.bfloat16).cpu()
        digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
