"""Tiny targets with drafts, whole or one rank's part, and a worker that replays any of them.

In float64: sums of shards differ from whole ones by 1e-16, and the logits, rounded to float32, by
one unit in the last place at most. A token could change where two candidates are closer than that:
of the some 3000 that are compared none is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from typing import cast

import torch

from server.engine.schedule.planner import SchedulerConfig
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.decoder_layer import local_config
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.shard import WHOLE, Shard
from server.parallel.rank import Rank
from server.parallel.replay import Replayed, replay
from tests.engine.tiny import CONFIG, CPU, MODEL

TIED = replace(
    MODEL,
    num_kv_heads=1,
    tie_word_embeddings=True,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    qk_norm=True,
)
GLIDE = GlideConfig(
    hidden_size=MODEL.hidden_size,
    intermediate_size=41,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope=MODEL.rope,
    glimpse_layers=((0, -1),),
    glimpse_hidden=True,
    copy_hint=True,
    max_delay=5,
    draft_vocab_size=39,
    target=target_shape(MODEL),
)


@dataclass(frozen=True, slots=True)
class Variant:
    target: ModelConfig
    draft: GlideConfig | ModelConfig


VARIANTS: Mapping[str, Variant] = {
    "several glimpses and the hidden state": Variant(MODEL, GLIDE),
    "one KV head, tied, biases; a draft whose heads don't divide": Variant(
        TIED,
        replace(
            GLIDE,
            num_heads=3,
            num_kv_heads=3,
            glimpse_layers=(),
            draft_vocab_size=None,
            cross_bias=True,
            target=target_shape(TIED),
        ),
    ),
    "two draft layers with embedding and head": Variant(
        MODEL,
        replace(
            GLIDE,
            num_layers=2,
            num_kv_heads=1,
            glimpse_layers=((1,), (0, 1)),
            glimpse_hidden=False,
            own_embedding=True,
            own_head=True,
            final_norm=False,
        ),
    ),
    "a language model as draft": Variant(MODEL, MODEL),
    "one whose heads don't divide": Variant(MODEL, replace(MODEL, num_heads=3, num_kv_heads=3)),
}


@cache
def weights(name: str, part: str) -> dict[str, torch.Tensor]:
    """Random tensors of a whole model, the same in every process. part: target or draft"""
    parameters = _parameters(name, WHOLE)[0 if part == "target" else 1]
    generator = torch.Generator().manual_seed(7)
    tensors = dict[str, torch.Tensor]()
    for slot_name, slot in parameters.slots().items():
        made = torch.empty(slot.shape, dtype=torch.float64)
        if slot_name == TOKEN_TABLE:
            made = torch.randperm(MODEL.vocab_size, generator=generator)[: len(slot)]
        elif "norm" in slot_name:
            made.uniform_(0.8, 1.2, generator=generator)
        else:
            made.normal_(0.0, 0.2, generator=generator)
        tensors[slot_name] = made
    return tensors


def _parameters(
    name: str, shard: Shard
) -> tuple[LlamaParameters, GlideParameters | LlamaParameters]:
    placement = Placement(CPU, torch.float64, shard)
    variant = VARIANTS[name]
    target = LlamaParameters(variant.target, placement)
    if isinstance(variant.draft, GlideConfig):
        return target, GlideParameters(variant.draft, variant.target, placement)
    return target, LlamaParameters(variant.draft, placement)


def models(name: str, shard: Shard) -> tuple[CausalLM, GlideModel | CausalLM]:
    """Target and draft, ready to run."""
    target, draft = _parameters(name, shard)
    _fill(target, weights(name, "target"))
    _fill(draft, weights(name, "draft"))
    if isinstance(draft, GlideParameters):
        drafting = draft.freeze(target.embedding, target.head())
    else:
        drafting = draft.freeze()
    return target.freeze(), drafting


def _fill(
    parameters: LlamaParameters | GlideParameters, tensors: Mapping[str, torch.Tensor]
) -> None:
    slices = parameters.slices()
    for name, slot in parameters.slots().items():
        whole = tensors[name]
        slot.copy_(slices[name].of(whole) if name in slices else whole)


def pools(
    target: CausalLM, draft: GlideModel | CausalLM, config: SchedulerConfig = CONFIG
) -> tuple[list[LayerCache], list[LayerCache]]:
    """KV of target and draft: this rank's heads."""
    return _pool(target, config), _pool(draft, config)


def _pool(model: CausalLM | GlideModel, config: SchedulerConfig) -> list[LayerCache]:
    if isinstance(model, GlideModel):
        shape = CacheShape(*model.cache_shape, torch.float64)
    else:
        local = local_config(model.config, model.placement.shard)
        shape = CacheShape(local.num_layers, local.num_kv_heads, local.head_dim, torch.float64)
    return allocate_kv(shape, config.num_blocks, config.block_size, CPU)


class _UntilEnd:
    """The pipe up to rank 0's `end`: a worker takes its next variant then."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def recv_bytes(self) -> bytes:
        received = self.pipe.recv_bytes()
        if received == b'{"end": 1}':
            raise EOFError
        return received


def play(rank: Rank) -> None:
    """A worker's work: `{"variant": index}`, its calls, `{"end": 1}`, and again."""
    torch.set_num_threads(1)
    shard = rank.join()
    names = list(VARIANTS)
    while (message := rank.hear()) is not None:
        target, draft = models(names[message["variant"]], shard)
        caches, draft_caches = pools(target, draft)
        pipe = cast(Connection, _UntilEnd(rank.pipe))
        replay(pipe, CPU, Replayed(target, caches, draft, draft_caches))
