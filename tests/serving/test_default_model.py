"""The default model, offline and in float32, against transformers on the same weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.step.host.runner import Runner
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import load_hf_tokenizer
from tests.engine.tiny import make_request
from weights.checkpoint import load_weights, read_config
from weights.locate import locate_model

pytestmark = pytest.mark.real_model

CPU = torch.device("cpu")
NEW_TOKENS = 32
QUESTIONS = ("Why is the sky blue?", "Write a haiku about autumn.", "What is 7 times 8?")


@pytest.fixture(scope="module")
def folder() -> Path:
    cache = load_settings(ModelSettings).cache_dir
    return locate_model(DEFAULT_MODEL, cache, torch.float32, lambda line: None, in_floats=True)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Any]:
    from transformers import AutoModelForCausalLM

    yield AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[list[int]]:
    tokenizer = load_hf_tokenizer(folder)
    template = ChatTemplate(tokenizer, "default")
    texts = [template.render([{"role": "user", "content": q}]) for q in QUESTIONS]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def test_the_default_template_is_rendered_and_read_as_special_tokens(
    folder: Path, prompts: list[list[int]]
) -> None:
    backend = load_hf_tokenizer(folder).backend_tokenizer
    counts = [
        prompts[0].count(backend.token_to_id(t) or -1) for t in ("<|im_start|>", "<|im_end|>")
    ]
    assert counts == [3, 2]  # system, user, assistant; the assistant's turn is left open
    assert backend.decode(prompts[0], skip_special_tokens=False).endswith(
        f"{QUESTIONS[0]}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_greedy_answers_equal_transformers(
    folder: Path, reference: Any, prompts: list[list[int]]
) -> None:
    """Token by token, all prompts in one batch here and one by one there."""
    config = model_config(read_config(folder))
    parameters = LlamaParameters(config, Placement(CPU, torch.float32))
    load_weights(folder, parameters.slots(), parameters.ignorable)
    model = parameters.freeze()
    shape = CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, torch.float32)
    eos = frozenset(config.eos_token_ids)
    limits = SchedulerConfig(64, 16, 512, 8, 64, True, eos)
    runner = Runner(model, allocate_kv(shape, 64, 16, CPU), 16, eos, CPU)
    scheduler = Scheduler(limits)
    for index, prompt in enumerate(prompts):
        scheduler.add(make_request(str(index), prompt, max_tokens=NEW_TOKENS), 0.0)
    got: list[list[int]] = [[] for _ in prompts]
    while (plan := scheduler.schedule(0.0)) is not None:
        for output in scheduler.update(plan, runner.execute(plan), 0.0):
            got[int(output.request_id)] += output.token_ids
    for prompt, answer in zip(prompts, got, strict=True):
        expected = reference.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        assert answer == expected[0, len(prompt) :].tolist()
