"""The run of `bench/exactness.py` in small: default model, shipped draft, 4/8-bit weights."""

import asyncio

import pytest

from bench.common.engine import encode_chat
from bench.exactness import OFF, compare
from server.config import ModelSettings, load_settings
from server.engine.types import SpeculationParams
from server.loading.model import build_model

pytestmark = pytest.mark.real_model

QUESTIONS = (
    "Why is the sky blue?",
    "Write a haiku about autumn.",
    "What is 7 times 8? Explain each step.",
    "Name three animals and say where each of them lives.",
    "Write a Python function that reverses a list.",
    "Translate 'good morning' into French, Spanish and German.",
)


def test_speculation_and_company_change_no_token_of_the_default_model() -> None:
    model = build_model(load_settings(ModelSettings), lambda line: None, lambda stats: None)
    prompts = [
        encode_chat(model, [{"role": "user", "content": question}]) for question in QUESTIONS
    ]
    policies = [OFF, *(SpeculationParams(policy=name) for name in ("auto", "chain", "cape"))]
    found = asyncio.run(compare(model, prompts, policies, 48, (1, len(prompts))))
    differing = {name: count for name, count in found.items() if name.endswith("differ")}
    assert len(differing) == 2 * (2 * len(policies) - 1)
    assert not any(differing.values()), differing
    # Answers of some length were compared, and the two ways of sampling are two.
    assert found["greedy tokens"] >= 100 and found["seeded tokens"] >= 100
