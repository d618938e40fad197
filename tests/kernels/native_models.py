"""Models for the native decoder's tests: every feature it has, random weights, any path."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from server.kernels.cpu import library
from server.kernels.cpu.instruction_sets import (
    INSTRUCTION_SETS,
    InstructionSet,
    asks_cpu,
    built_libraries,
)
from server.kernels.types import DecoderEnds
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig, RopeConfig
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.rope import RotaryEmbedding
from tests.kernels.paged import CPU, make_model

VOCAB_SIZE = 101


def _instruction_sets_here() -> list[InstructionSet]:
    built = built_libraries()
    cpu_runs = asks_cpu(built)
    return [name for name in INSTRUCTION_SETS if name in built and cpu_runs(name)]


INSTRUCTION_SETS_HERE = _instruction_sets_here()
"""That were built and that this CPU runs, the one that serves by itself first."""


def needs_native() -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        library.native_library() is None,
        reason="no native library was built, or GLIDECAPE_CPU_KERNELS is none",
    )


def _config(heads: int, kv_heads: int, head_dim: int, **more: Any) -> ModelConfig:
    rest: dict[str, Any] = {"hidden_size": 80, "intermediate_size": 96, "num_layers": 2}
    rest = {"tie_word_embeddings": False} | rest | more
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=VOCAB_SIZE,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        max_position=256,
        rope=RopeConfig(theta=1000.0, original_max_position=256),
        **rest,
    )


BIASES: dict[str, Any] = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
VARIANTS: dict[str, ModelConfig] = {
    "mha-64": _config(2, 2, 64),
    "gqa3-32-tied": _config(6, 2, 32, tie_word_embeddings=True),
    "gqa5-32-window": _config(5, 1, 32, sliding_windows=(6, None)),
    "gqa8-128-qk_norm": _config(8, 1, 128, qk_norm=True),
    "gqa2-64-biases": _config(4, 2, 64, **BIASES),
    "all-96": _config(4, 2, 96, qk_norm=True, sliding_windows=(21, 1), **BIASES),
    "wide": _config(2, 1, 32, hidden_size=208, intermediate_size=352),
}


@cache
def random_weights(name: str) -> dict[str, torch.Tensor]:
    return draw_weights(VARIANTS[name])


def draw_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """float32 tensors with bfloat16 values, so that precisions differ in the arithmetic alone."""
    parameters = LlamaParameters(config, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(3)
    weights = dict[str, torch.Tensor]()
    for slot_name, slot in parameters.slots().items():
        tensor = torch.empty(slot.shape)
        if "norm" in slot_name:
            tensor.uniform_(0.4, 1.8, generator=generator)
        elif slot_name.endswith("bias"):
            tensor.normal_(0.0, 0.3, generator=generator)
        else:
            tensor.normal_(0.0, 1.5 * slot.shape[-1] ** -0.5, generator=generator)
        weights[slot_name] = tensor.bfloat16().float()
    return weights


def decoder_ends(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> DecoderEnds:
    embedding = torch.zeros(config.vocab_size, config.hidden_size, dtype=dtype)
    angles = RotaryEmbedding(config.rope, config.head_dim, CPU).angles()
    return DecoderEnds(embedding, torch.ones(config.hidden_size), angles)


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@contextmanager
def without_native_library() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "native_library", lambda: None)
        yield


def native_model(name: str, num_threads: int = 2) -> CausalLM:
    with torch_threads(num_threads):
        return make_model(VARIANTS[name], random_weights(name), torch.bfloat16)


def torch_model(name: str, dtype: torch.dtype) -> CausalLM:
    """The same weights over the reference layers."""
    with without_native_library():
        return make_model(VARIANTS[name], random_weights(name), dtype)


def random_tokens(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist()
