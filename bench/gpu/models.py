"""Models with random weights for `bench/gpu`: shapes of well-known ones, and a GliDe draft."""

from dataclasses import dataclass
from pathlib import Path

import torch

from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.kernels.tree import LayerCache
from server.loading.target import load_target, read_target
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig, RopeConfig
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.parameters import Parameters

BLOCK_SIZE = 16
_LAYERS_IN_ALL = {"llama-2-7b": 32, "llama-3-8b": 32, "vicuna-33b": 60, "tiny": 2}
_DRAFT_VOCABULARY = 8192


def _shape(
    name: str, hidden: int, inner: int, heads: tuple[int, int], vocab: int, head_dim: int = 128
) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=_LAYERS_IN_ALL[name],
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        max_position=2**17,
        tie_word_embeddings=False,
        rope=RopeConfig(theta=10_000.0, original_max_position=2**17),
        eos_token_ids=(2,),
    )


SHAPES = {
    "llama-2-7b": _shape("llama-2-7b", 4096, 11008, (32, 32), 32000),
    "llama-3-8b": _shape("llama-3-8b", 4096, 14336, (32, 8), 128256),
    "vicuna-33b": _shape("vicuna-33b", 6656, 17920, (52, 52), 32000),
    "tiny": _shape("tiny", 64, 96, (4, 2), 300, head_dim=16),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A target with its KV pool, and a draft that reads it."""

    target: CausalLM
    caches: list[LayerCache]
    draft: GlideModel
    draft_caches: list[LayerCache]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the target's weights that every step reads: all but the embedding, of which a
        step reads some rows."""
        config = self.target.config
        head = config.vocab_size * config.hidden_size
        per_layer = config.hidden_size * config.head_dim * 2 * config.num_heads
        per_layer += config.hidden_size * config.head_dim * 2 * config.num_kv_heads
        per_layer += 3 * config.hidden_size * config.intermediate_size
        return (head + config.num_layers * per_layer) * self.target.placement.dtype.itemsize

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's KV in all layers of the target."""
        config = self.target.config
        return kv_shape(config, self.target.placement.dtype).bytes_per_token

    @property
    def num_blocks(self) -> int:
        return len(self.caches[0].keys)


def kv_shape(config: ModelConfig, dtype: torch.dtype) -> CacheShape:
    return CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, dtype)


@torch.inference_mode()
def random_pair(config: ModelConfig, placement: Placement, num_tokens: int) -> Pair:
    """A target of random weights.

    Args:
        num_tokens: size of the KV pool, in tokens.
    """
    target = LlamaParameters(config, placement)
    _randomise(target.slots())
    return _paired(target, placement, num_tokens)


@torch.inference_mode()
def loaded_pair(folder: Path, placement: Placement, num_tokens: int) -> Pair:
    """A checkpoint in Hugging Face layout, with a random draft."""
    return _paired(load_target(read_target(folder), placement).parameters, placement, num_tokens)


def _paired(target: Parameters, placement: Placement, num_tokens: int) -> Pair:
    config = target.config
    draft_parameters = GlideParameters(_draft_config(config), config, placement)
    slots = draft_parameters.slots()
    _randomise({name: slot for name, slot in slots.items() if slot.is_floating_point()})
    draft = draft_parameters.freeze(target.embedding, target.head())
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    caches = allocate_kv(
        kv_shape(config, placement.dtype), num_blocks, BLOCK_SIZE, placement.device
    )
    shape = CacheShape(*draft.cache_shape, placement.dtype)
    own = allocate_kv(shape, num_blocks, BLOCK_SIZE, placement.device)
    return Pair(target.freeze(), caches, draft, own)


def _draft_config(target: ModelConfig) -> GlideConfig:
    """The paper's draft: one layer of the target's size that glimpses the target's last layer, with
    a trimmed vocabulary."""
    return GlideConfig(
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_layers=1,
        num_heads=target.num_heads,
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        rms_norm_eps=target.rms_norm_eps,
        target=target_shape(target),
        draft_vocab_size=min(_DRAFT_VOCABULARY, target.vocab_size),
    )


def _randomise(slots: dict[str, torch.Tensor]) -> None:
    for name, slot in slots.items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.02)
