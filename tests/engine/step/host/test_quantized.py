"""Speculation changes no token of a quantized model on the native kernels, alone or in a batch.

The requests are the first 8 of `tests/engine/answers.py`: greedy and seeded, plain and penalised.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import PolicyName, Request, SpeculationParams
from server.kernels.quantized import PartWeight, RoundedKind
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.quantization import Quantization
from tests.engine.answers import logprobs, requests
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.tiny import CONFIG, CPU, MODEL, MakeDrafter, TinyEngine, tokens
from tests.kernels.native_models import needs_native, torch_threads
from tests.kernels.quantized_models import KINDS

pytestmark = needs_native()

BFLOAT16 = Placement(CPU, torch.bfloat16)
TARGET = replace(
    MODEL, hidden_size=64, intermediate_size=96, num_heads=2, num_kv_heads=1, head_dim=32
)
DRAFT = GlideConfig(
    hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=32,
    rms_norm_eps=1e-5, rope=MODEL.rope, glimpse_layers=((0, -1),), glimpse_hidden=True, max_delay=5,
    draft_vocab_size=40, cross_norm=True, target=target_shape(TARGET),
)  # fmt: skip
POLICIES: tuple[PolicyName, ...] = ("chain", "cape", "auto")
DRAFTERS = ("oracle", "ngram", "glide")
ALL_PATTERNS = ["".join(p) for n in range(4) for p in itertools.product("TLx", repeat=n)]


class Models(NamedTuple):
    target: CausalLM
    draft: GlideModel


@cache
def models(kind: RoundedKind) -> Models:
    """Random weights; the draft shares the target's embedding and quantized head."""
    parameters = LlamaParameters(TARGET, BFLOAT16)
    generator = torch.Generator().manual_seed(7)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    quantization = Quantization(kind)
    with torch_threads(2):
        draft = _draft(parameters.embedding, parameters.head(quantization))
        target = parameters.freeze(quantization)
    assert target.is_fused
    assert draft.drafts_chains
    return Models(target, draft)


def _draft(embedding: torch.Tensor, head: PartWeight) -> GlideModel:
    parameters = GlideParameters(DRAFT, TARGET, BFLOAT16)
    generator = torch.Generator().manual_seed(3)
    for name, slot in parameters.slots().items():
        if name == TOKEN_TABLE:
            slot.copy_(torch.randperm(TARGET.vocab_size, generator=generator)[: len(slot)])
        else:
            slot.normal_(0.0, 0.3, generator=generator)
    return parameters.freeze(embedding, head)


@cache
def plain(kind: RoundedKind) -> Mapping[str, Sequence[RequestOutput]]:
    """Each request on an engine of its own, without speculation."""
    model = models(kind).target
    return {r.request_id: TinyEngine(model=model).run([r])[r.request_id] for r in requests()[:8]}


def drafter(name: str, kind: RoundedKind) -> MakeDrafter:
    def make(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
        if name == "ngram":
            return NgramDrafter()
        if name == "oracle":
            answers = {r.request_id: tokens(plain(kind)[r.request_id]) for r in requests()[:8]}
            return OracleDrafter(answers, ALL_PATTERNS)
        draft = models(kind).draft
        shape = CacheShape(*draft.cache_shape, torch.bfloat16)
        own = allocate_kv(shape, config.num_blocks, config.block_size, CPU)
        return GlideDrafter(draft, own, caches, config.block_size, CPU)

    return make


def speculated(policy: PolicyName) -> list[Request]:
    return [replace(r, speculation=SpeculationParams(policy=policy)) for r in requests()[:8]]


def assert_plain(kind: RoundedKind, got: Mapping[str, Sequence[RequestOutput]]) -> None:
    for name, outputs in got.items():
        expected = plain(kind)[name]
        assert tokens(outputs) == tokens(expected), name
        assert outputs[-1].finish_reason == expected[-1].finish_reason
        assert logprobs(outputs) == pytest.approx(logprobs(expected), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_requests_alone(kind: RoundedKind) -> None:
    got = TinyEngine(model=models(kind).target).run(requests()[:8])
    assert_plain(kind, {**got})


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_8_speculates(kind: RoundedKind, policy: PolicyName, name: str) -> None:
    engine = TinyEngine(CONFIG, drafter(name, kind), models(kind).target)
    for _ in range(2):  # the second time with whatever the first left in the prefix cache
        assert_plain(kind, {**engine.run(speculated(policy))})
    assert engine.scheduler.pool.num_free == CONFIG.num_blocks


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_chunks_of_7_speculates(kind: RoundedKind) -> None:
    config = replace(CONFIG, max_num_batched_tokens=7, num_blocks=64)
    engine = TinyEngine(config, drafter("glide", kind), models(kind).target)
    assert_plain(kind, {**engine.run(speculated("cape"))})


KINDS_IN_TURN = [
    (KINDS[(row + column) % len(KINDS)], policy, name)
    for row, policy in enumerate(POLICIES)
    for column, name in enumerate(DRAFTERS)
]
"""Every policy meets every drafter, and each of both every kind; in batches all three meet."""


@pytest.mark.parametrize(("kind", "policy", "name"), KINDS_IN_TURN)
def test_each_request_speculates_alone(kind: RoundedKind, policy: PolicyName, name: str) -> None:
    for request in speculated(policy):
        engine = TinyEngine(CONFIG, drafter(name, kind), models(kind).target)
        assert_plain(kind, {**engine.run([request])})


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_not_trivial(kind: RoundedKind) -> None:
    """Answers differ and go somewhere; of the proposals some are taken."""
    answers = {tuple(tokens(outputs)) for outputs in plain(kind).values()}
    assert len(answers) == 8
    assert max(len(set(answer)) for answer in answers) > 10
    for name in DRAFTERS:
        engine = TinyEngine(CONFIG, drafter(name, kind), models(kind).target)
        summaries = [out[-1].speculation for out in engine.run(speculated("cape")).values()]
        assert sum(s.num_accepted + s.num_leaves_accepted for s in summaries if s) > 0, name
