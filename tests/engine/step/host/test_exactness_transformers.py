"""Speculation never changes a token on transformers' code either: Gemma 3's layers (windows in
every other one, norms around everything) and Qwen3-MoE's (routed experts), every policy and
drafter, greedy and seeded, against plain decoding alone. As `test_exactness.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from transformers import Gemma3TextConfig, PreTrainedConfig, Qwen3MoeConfig

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import PolicyName, RequestId
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from tests.engine.answers import logprobs, requests
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.drafting import (
    ALL_PATTERNS,
    POLICIES,
    glide_of_own_tokens,
    same_model,
    speculated,
)
from tests.engine.tiny import CONFIG, EOS, MODEL, TinyEngine, tokens
from tests.models.hf.families import our_model, reference_model

SIZES: dict[str, Any] = {
    "vocab_size": MODEL.vocab_size,
    "hidden_size": MODEL.hidden_size,
    "intermediate_size": MODEL.intermediate_size,
    "num_hidden_layers": MODEL.num_layers,
    "num_attention_heads": MODEL.num_heads,
    "num_key_value_heads": MODEL.num_kv_heads,
    "head_dim": MODEL.head_dim,
    "max_position_embeddings": MODEL.max_position,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
SHAPES: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3TextConfig(
        **SIZES, sliding_window=24, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **SIZES, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24
    ),
}
TIGHT = replace(CONFIG, num_blocks=40, max_model_len=128, max_num_batched_tokens=7)
"""Prompts in chunks, preemptions, and what is left of them in the prefix cache."""
DRAFTERS = ("oracle", "ngram", "draft_model", "glide")
NAMES = ("r0", "r1", "r2", "r3", "r6", "r7")
"""Of the shared requests: greedy, seeded and penalised ones, with own and with shared prompts."""


@cache
def model(shape: str) -> CausalLM:
    with TemporaryDirectory() as folder:
        reference_model(SHAPES[shape]).save_pretrained(folder)
        return our_model(Path(folder))


@cache
def alone(shape: str) -> Mapping[RequestId, Sequence[RequestOutput]]:
    """Each request's plain answer, on an engine of its own."""
    wanted = [r for r in requests() if r.request_id in NAMES]
    return {r.request_id: TinyEngine(model=model(shape)).run([r])[r.request_id] for r in wanted}


def drafter(name: str, shape: str, config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
    if name == "oracle":
        answers = {request: tokens(outputs) for request, outputs in alone(shape).items()}
        return OracleDrafter(answers, ALL_PATTERNS)
    if name == "ngram":
        return NgramDrafter()
    return (same_model if name == "draft_model" else glide_of_own_tokens)(config, caches)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_equal_plain_decoding(policy: PolicyName, shape: str) -> None:
    """Two drafters each, so that each meets two policies or three; in company, in chunks, with too
    few blocks."""
    expected = alone(shape)
    num_preemptions, place = 0, POLICIES.index(policy) + 2 * list(SHAPES).index(shape)
    for name in (DRAFTERS[place % 4], DRAFTERS[(place + 1) % 4]):
        engine = TinyEngine(TIGHT, lambda *given, n=name: drafter(n, shape, *given), model(shape))
        found = engine.run(speculated(policy, NAMES))
        for request, outputs in found.items():
            assert tokens(outputs) == tokens(expected[request]), (name, request)
            assert logprobs(outputs) == pytest.approx(logprobs(expected[request]), abs=1e-4)
        assert engine.scheduler.pool.num_free == TIGHT.num_blocks
        num_preemptions += engine.num_preemptions
    assert num_preemptions > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_not_trivial(shape: str) -> None:
    answers = {name: tuple(tokens(outputs)) for name, outputs in alone(shape).items()}
    assert len(set(answers.values())) == len(answers)
    assert max(len(set(answer)) for answer in answers.values()) > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_right_proposals_save_steps(shape: str) -> None:
    answers = {request: tokens(outputs) for request, outputs in alone(shape).items()}
    engine = TinyEngine(CONFIG, lambda *_: OracleDrafter(answers, ["TTTT"]), model(shape))
    (request,) = speculated("chain", ("r0",))
    engine.run([request])
    assert engine.num_steps < 12  # 40 tokens in steps of 5, and the prompt
