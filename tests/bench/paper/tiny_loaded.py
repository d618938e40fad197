"""The tiny random model with a random GliDe, as the composition root would hand it over."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from server.engine.async_engine import AsyncEngine
from server.engine.drafters.glide import GlideDrafter
from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.outputs import StepStats
from server.engine.schedule.scheduler import Scheduler
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import SamplingDefaults, SpeculationParams
from server.loading.facts import ModelFacts
from server.loading.model import LoadedModel
from tests.doubles import PlainTemplate, byte_tokenizer
from tests.engine.drafting import tiny_glide
from tests.engine.tiny import CONFIG, CPU, EOS, FREE_DRAFTS, tiny_caches, tiny_model


class FoldedTokenizer:
    """Bytes, folded into the tiny model's vocabulary."""

    def __init__(self) -> None:
        self._bytes = byte_tokenizer()
        self.backend = self._bytes.backend

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [
            token_id % EOS
            for token_id in self._bytes.encode(text, add_special_tokens=add_special_tokens)
        ]


def tiny_loaded(observe: Callable[[StepStats], None]) -> LoadedModel:
    limits = replace(CONFIG, prefix_caching=False, speculates=True)
    caches, glide = tiny_caches(limits), tiny_glide()
    shape = CacheShape(*glide.cache_shape, torch.float32)
    own = allocate_kv(shape, limits.num_blocks, limits.block_size, CPU)
    drafter = GlideDrafter(glide, own, caches, limits.block_size, CPU)
    speculator = Speculator(drafter, PolicyConfig(), AutoPolicy(FREE_DRAFTS))
    runner = Runner(tiny_model(), caches, limits.block_size, limits.eos_token_ids, CPU, speculator)
    tokenizer: Any = FoldedTokenizer()
    compiler_vocabulary = Vocabulary(61, bytes, frozenset(), frozenset({EOS}), lambda text: [])
    return LoadedModel(
        facts=ModelFacts(
            *("tiny", "tiny", "float32"),
            kernels="",
            draft="none",
            speculation=SpeculationParams(),
            can_speculate=True,
            vocab_size=61,
            max_model_len=limits.max_model_len,
            default_sampling=SamplingDefaults(),
        ),
        limits=limits,
        engine=AsyncEngine(Scheduler(limits), runner, observe),
        runner=runner,
        grammars=GrammarCompiler(compiler_vocabulary),
        tokenizer=tokenizer,
        chat_template=PlainTemplate(),
        workers=None,
    )
