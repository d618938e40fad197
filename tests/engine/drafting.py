"""Drafters for the tiny model, and its requests under a policy."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.model import ModelDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.schedule.planner import SchedulerConfig
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import PolicyName, Request, SpeculationParams
from server.kernels.tree import LayerCache
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from tests.engine.answers import alone, requests
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.tiny import CONFIG, CPU, MODEL, tiny_caches, tiny_model, tokens

POLICIES: tuple[PolicyName, ...] = ("off", "chain", "cape", "beam", "auto")
ALL_PATTERNS = ["".join(p) for n in range(4) for p in itertools.product("TLx", repeat=n)]
ENGINES: dict[str, SchedulerConfig] = {
    "roomy": CONFIG,
    "no prefix cache": replace(CONFIG, prefix_caching=False),
    "chunks of 7": replace(CONFIG, max_num_batched_tokens=7),
    "few blocks": replace(CONFIG, num_blocks=64),
    "few blocks, chunks of 7": replace(CONFIG, num_blocks=64, max_num_batched_tokens=7),
}


def speculated(policy: PolicyName, names: Sequence[str] | None = None) -> list[Request]:
    """The shared requests under a policy."""
    params = SpeculationParams(policy=policy)
    return [
        replace(r, speculation=params) for r in requests() if names is None or r.request_id in names
    ]


def oracle(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    answers = {r.request_id: tokens(alone()[r.request_id]) for r in requests()}
    return OracleDrafter(answers, ALL_PATTERNS)


def ngram(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    return NgramDrafter()


def same_model(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    """The target as its own draft: its greedy guesses are right wherever the request is greedy."""
    own = tiny_caches(config, MODEL.num_layers)
    return ModelDrafter(tiny_model(), own, config.block_size, CPU)


def glide(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    """A random GliDe draft that glimpses both target layers and the hidden state."""
    return glide_drafter(tiny_glide(), config, caches)


def glide_of_own_tokens(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    """One that says what the sequence shows, too."""
    return glide_drafter(tiny_glide(context_vocab_size=8, copy_hint=True), config, caches)


def glide_drafter(
    model: GlideModel, config: SchedulerConfig, caches: list[LayerCache]
) -> GlideDrafter:
    kv_layers, kv_heads, head_dim = model.cache_shape
    shape = CacheShape(kv_layers, kv_heads, head_dim, torch.float32)
    own = allocate_kv(shape, config.num_allocated_blocks, config.block_size, CPU)
    return GlideDrafter(model, own, caches, config.block_size, CPU)


@cache
def tiny_glide(context_vocab_size: int = 0, copy_hint: bool = False) -> GlideModel:
    config = GlideConfig(
        hidden_size=MODEL.hidden_size,
        intermediate_size=40,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope=MODEL.rope,
        glimpse_layers=((0, -1),),
        glimpse_hidden=True,
        max_delay=5,
        draft_vocab_size=40,
        context_vocab_size=context_vocab_size,
        copy_hint=copy_hint,
        cross_norm=True,
        target=target_shape(MODEL),
    )
    parameters = GlideParameters(config, MODEL, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(3)
    for slot in parameters.slots().values():
        if slot.dtype is torch.int64:
            slot.copy_(torch.randperm(61, generator=generator)[: len(slot)])
        else:
            slot.normal_(0.0, 0.3, generator=generator)
    weights = [torch.randn(61, MODEL.hidden_size, generator=generator) for _ in range(2)]
    return parameters.freeze(*weights)


DRAFTERS = {
    "oracle": oracle,
    "ngram": ngram,
    "draft_model": same_model,
    "glide": glide_of_own_tokens,
}
