"""A tiny random target, and text that it would write, for training drafts in seconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from server.engine.step.inputs import Nodes, build_inputs
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.kernels.tree import LayerCache
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from weights.train.config import TrainConfig
from weights.train.features.target import TrainTarget, prepare_target

CPU = torch.device("cpu")
VOCABULARY = 61
STOP_ID = 60
LAYERS = (0, 2)
"""Those the drafts here read, of 3."""


def tiny_target(
    seed: int = 0, glimpse_layers: Sequence[int] = LAYERS, **changes: Any
) -> TrainTarget:
    settings: dict[str, Any] = {
        "architecture": "LlamaForCausalLM", "vocab_size": VOCABULARY, "hidden_size": 32,
        "intermediate_size": 48, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2,
        "head_dim": 8, "rms_norm_eps": 1e-5, "max_position": 256, "tie_word_embeddings": False,
    }  # fmt: skip
    parameters = LlamaParameters(ModelConfig(**settings | changes), Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(seed)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.copy_(torch.randn(slot.shape, generator=generator) * _spread(name))
    return prepare_target(parameters, glimpse_layers)


def _spread(name: str) -> float:
    """Spread of random weights: the target is sure of what it says, mostly by its latest tokens."""
    return {"model.embed_tokens.weight": 0.7, "lm_head.weight": 0.5}.get(name, 0.15)


def caches_of(target: TrainTarget, num_tokens: int) -> list[LayerCache]:
    config = target.config
    shape = CacheShape(config.num_layers, config.num_kv_heads, config.head_dim, torch.float32)
    return allocate_kv(shape, -(-num_tokens // 4), 4, CPU)


@torch.inference_mode()
def run_target(
    target: TrainTarget, token_ids: Sequence[int]
) -> tuple[list[LayerCache], torch.Tensor]:
    """Its caches (blocks in order) and final hidden states, one sequence alone."""
    caches = caches_of(target, len(token_ids))
    inputs = build_inputs([Nodes(range(len(caches[0].keys)), 0, token_ids)], 4, CPU)
    return caches, target.model(inputs.token_ids, caches, inputs.batch)


@torch.inference_mode()
def greedy(target: TrainTarget, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The target's answers to prompts of one length."""
    per_sequence = -(-(len(prompts[0]) + count) // 4)
    caches = caches_of(target, 4 * per_sequence * len(prompts))
    answers = [list[int]() for _ in prompts]
    pending, done = [list(prompt) for prompt in prompts], 0
    for _ in range(count):
        nodes = [
            Nodes(range(i * per_sequence, (i + 1) * per_sequence), done, tokens)
            for i, tokens in enumerate(pending)
        ]
        inputs = build_inputs(nodes, 4, CPU)
        hidden = target.model(inputs.token_ids, caches, inputs.batch)
        done += len(pending[0])
        last = hidden.view(len(prompts), -1, hidden.shape[-1])[:, -1]
        pending = [[token] for token in target.model.logits(last).argmax(dim=-1).tolist()]
        for answer, tokens in zip(answers, pending, strict=True):
            answer += tokens
    return answers


def write_text(path: Path, target: TrainTarget, count: int, length: int = 24) -> Path:
    """Answers of the target to random prompts."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(VOCABULARY, (count, 4), generator=generator).tolist()
    answers = greedy(target, prompts, length)
    entries = (
        {"prompt_ids": prompt, "response_ids": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def tiny_config(folder: Path, text: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "text": (text,), "out": folder / "draft", "work": folder / "work",
        "glimpse_layers": LAYERS, "draft_vocab_size": 48, "top_k": 8, "max_delay": 4,
        "feature_dtype": "float32", "precision": "float32", "batch_tokens": 512,
        "micro_batch_tokens": 256, "learning_rate": 5e-3, "checkpoint_seconds": 1e-6,
        "validation_seconds": 1e6,
    }  # fmt: skip
    return TrainConfig(**settings | changes)


def no_prompt(text: str) -> list[int]:
    """Prompts here are ids already; a text is its bytes."""
    return [byte % VOCABULARY for byte in text.encode()]
