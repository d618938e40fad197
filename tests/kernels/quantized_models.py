"""Models for the tests of quantized weights: every feature of the native decoder, at widths that
groups of 32 divide."""

from dataclasses import replace
from functools import cache

import torch

from server.kernels.quantized import GROUP, RoundedKind, quantize
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.quantization import Quantization
from tests.kernels import native_models
from tests.kernels.native_models import draw_weights, torch_threads, without_native_library
from tests.kernels.paged import make_model

KINDS: tuple[RoundedKind, ...] = ("q4_1", "q8_0")
VARIANTS: dict[str, ModelConfig] = {
    name: replace(config, hidden_size=-(-config.hidden_size // GROUP) * GROUP)
    for name, config in native_models.VARIANTS.items()
}


@cache
def random_weights(name: str) -> dict[str, torch.Tensor]:
    return draw_weights(VARIANTS[name])


def is_linear(name: str, weight: torch.Tensor) -> bool:
    """Whether quantization is for it: the embedding is looked up, not multiplied."""
    return weight.dim() == 2 and "embed_tokens" not in name


def quantized_model(name: str, kind: RoundedKind, num_threads: int = 2) -> CausalLM:
    """Over the native kernels, where there are any."""
    with torch_threads(num_threads):
        weights = random_weights(name)
        return make_model(VARIANTS[name], weights, torch.bfloat16, Quantization(kind))


def fallback_model(name: str, kind: RoundedKind) -> CausalLM:
    """The same, on a machine without the native library."""
    with without_native_library():
        return quantized_model(name, kind)


def dequantized_model(name: str, kind: RoundedKind, dtype: torch.dtype = torch.float32) -> CausalLM:
    """What the quantized one computes, over the reference layers: the same rounded weights as
    floats. A tied head is rounded, the embedding it is tied to is not."""
    config, weights = VARIANTS[name], dict(random_weights(name))
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    rounded = {
        name: quantize(weight, kind).dequantize() if is_linear(name, weight) else weight
        for name, weight in weights.items()
    }
    with without_native_library():
        return make_model(replace(config, tie_word_embeddings=False), rounded, dtype)
