"""The draft that is shipped with the default model: found, small enough, as good as recorded."""

import asyncio
from collections.abc import Iterator

import pytest

from bench.common.prompts import PROMPTS
from server.config import ModelSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.types import Request, RequestId, SamplingParams, SpeculationParams
from server.loading.model import LoadedModel, build_model
from weights.default import DRAFT

pytestmark = pytest.mark.real_model

TOKENS_PER_STEP = 1.95
"""Tokens per step with chains of 5 over the prompts below, 64 tokens each, greedy, as measured when
the draft was trained."""
MORE_PROMPTS = (
    "Write an SQL query that counts the orders of each customer in 2023.",
    "A train covers 180 km in 2 hours and then 120 km in 3 hours. What is its average speed?",
    "What is an index fund, and whom does it suit?",
    "Write a Python function that checks whether a string is a palindrome.",
)
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    yield build_model(load_settings(ModelSettings), lambda line: None, lambda stats: None)


def test_it_has_a_card_and_at_most_20_mb() -> None:
    assert (DRAFT / "model.safetensors").stat().st_size <= 20_000_000
    assert "smollm2-135m-instruct" in (DRAFT / "card.md").read_text(encoding="utf-8")


def test_tokens_per_step_are_those_recorded(model: LoadedModel) -> None:
    """20 prompts; within 5 %: another machine's kernels may decide a near-tie otherwise."""
    last = asyncio.run(_answers(model, (*PROMPTS, *MORE_PROMPTS)))
    summaries = [output.speculation for output in last]
    num_steps = sum(summary.num_steps for summary in summaries if summary is not None)
    num_tokens = sum(output.num_output_tokens - 1 for output in last)  # the prompt's step gave one
    assert len(last) == 20
    assert num_tokens / num_steps == pytest.approx(TOKENS_PER_STEP, rel=0.05)


async def _answers(model: LoadedModel, prompts: tuple[str, ...]) -> list[RequestOutput]:
    """The last output of each answer."""
    model.engine.start()
    try:
        return await asyncio.gather(*(_answer(model, prompt) for prompt in prompts))
    finally:
        await model.engine.stop()


async def _answer(model: LoadedModel, prompt: str) -> RequestOutput:
    text = model.chat_template.render([{"role": "user", "content": prompt}])
    request = Request(
        RequestId(prompt),
        tuple(model.tokenizer.encode(text, add_special_tokens=False)),
        SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0),
        speculation=SpeculationParams("chain", 5),
    )
    return [output async for output in model.engine.generate(request)][-1]
