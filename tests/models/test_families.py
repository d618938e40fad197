"""Every family against transformers: same config, same weights, float32, logits equal."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from server.models.causal_lm import CausalLM
from server.models.config import model_config, rope_config
from server.models.rope import RotaryEmbedding
from tests.kernels.paged import CPU, Nodes, PagedModel, make_model

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
WINDOW: dict[str, Any] = {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1}


def sizes(**changes: Any) -> dict[str, Any]:
    return SIZES | changes


HEAD_DIM = SIZES["hidden_size"] // SIZES["num_attention_heads"]
PREFILL, STEPS = 40, 20
LENGTH = PREFILL + STEPS
SHORT = 13

FAMILIES: dict[str, PreTrainedConfig] = {
    "vicuna": LlamaConfig(**sizes(num_key_value_heads=4)),
    "llama-biases": LlamaConfig(**sizes(attention_bias=True, mlp_bias=True)),
    "mistral": MistralConfig(**sizes(sliding_window=None)),
    "mistral-window": MistralConfig(**sizes(sliding_window=9)),
    "qwen2": Qwen2Config(**sizes()),
    "qwen2-window": Qwen2Config(**sizes(**WINDOW)),
    "qwen3": Qwen3Config(**sizes(head_dim=20)),
    "qwen3-window-biases": Qwen3Config(**sizes(**WINDOW, head_dim=8, attention_bias=True)),
    "smollm2": LlamaConfig(
        **sizes(num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)
    ),
}
YARN: dict[str, Any] = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": YARN,
    "yarn-attention-factor": YARN | {"attention_factor": 0.7},
    "yarn-mscale": YARN | {"mscale": 0.8, "mscale_all_dim": 0.5},
    "yarn-smooth": YARN | {"truncate": False, "beta_fast": 6.0, "beta_slow": 1.5},
}  # fmt: skip
THETA = 500.0
TRAINED_DYNAMIC = 48
"""Trained context of the dynamic models: behind the prefill, within the decode steps."""


def assert_same_logits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.3, "logits too flat to tell models apart"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def rope_model_config(name: str) -> LlamaConfig:
    trained = TRAINED_DYNAMIC if name == "dynamic" else 128
    rope = {**ROPES[name], "rope_theta": THETA}
    return LlamaConfig(**sizes(max_position_embeddings=trained, rope_parameters=rope))


def reference_model(config: PreTrainedConfig) -> Any:
    """Random weights; norms and biases far enough from 1 and 0 to matter."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.4, 1.8)
            else:
                weight.normal_(0.0, 0.3 if name.endswith("bias") else 0.14)
    return model.eval()


def raw_config(reference: Any, **changes: Any) -> dict[str, Any]:
    return {**reference.config.to_dict(), "architectures": [type(reference).__name__], **changes}


def our_model(reference: Any, raw: Mapping[str, Any] | None = None) -> CausalLM:
    config = model_config(raw or raw_config(reference))
    return make_model(config, dict(reference.state_dict()), torch.float32)


def old_spelling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """As before transformers 5: `rope_theta` beside `rope_scaling`."""
    scaling = dict(raw["rope_parameters"])
    old = {key: value for key, value in raw.items() if key != "rope_parameters"}
    old["rope_theta"] = scaling.pop("rope_theta")
    scaling["type"] = scaling.pop("rope_type")
    return old | {"rope_scaling": None if scaling["type"] == "default" else scaling}


def text(length: int = LENGTH, seed: int = 5) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SIZES["vocab_size"], (length,), generator=generator).tolist()


@torch.no_grad()
def prefill_and_decode(reference: Any, tokens: list[int]) -> torch.Tensor:
    """transformers' logits [tokens, vocab_size]: one prefill, then single steps with its cache."""
    first = reference(torch.tensor([tokens[:PREFILL]]), use_cache=True)
    rows, cache = [first.logits[0]], first.past_key_values
    for token in tokens[PREFILL:]:
        step = reference(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        rows.append(step.logits[0])
    return torch.cat(rows)


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, CausalLM]:
    reference = reference_model(FAMILIES[request.param])
    return reference, our_model(reference)


def test_prefill_and_decoding(pair: tuple[Any, CausalLM]) -> None:
    reference, model = pair
    expected = prefill_and_decode(reference, text())
    actual = PagedModel(model).run(text(), [PREFILL] + [1] * STEPS)
    assert_same_logits(actual, expected)


@pytest.mark.parametrize("chunks", [[60], [1, 2, 3, 54], [17, 33, 10]], ids=str)
def test_chunked_prefill(pair: tuple[Any, CausalLM], chunks: list[int]) -> None:
    reference, model = pair
    with torch.no_grad():
        expected = reference(torch.tensor([text()])).logits[0]
    assert_same_logits(PagedModel(model).run(text(), chunks), expected)


def test_batch_of_two_lengths(pair: tuple[Any, CausalLM]) -> None:
    _, model = pair
    long, short = text(), text(SHORT + STEPS, seed=6)
    alone = (
        PagedModel(model).run(long, [PREFILL] + [1] * STEPS),
        PagedModel(model).run(short, [SHORT] + [1] * STEPS),
    )
    pool = PagedModel(model, num_sequences=2)
    first = pool.step(Nodes(0, 0, long[:PREFILL]), Nodes(1, 0, short[:SHORT]))
    rows = ([first[:PREFILL]], [first[PREFILL:]])
    for i in range(STEPS):
        contexts = PREFILL + i, SHORT + i
        one, two = pool.step(
            Nodes(0, contexts[0], [long[contexts[0]]]), Nodes(1, contexts[1], [short[contexts[1]]])
        )
        rows[0].append(one[None])
        rows[1].append(two[None])
    for mine, expected in zip(rows, alone, strict=True):
        assert_same_logits(torch.cat(mine), expected)


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", ROPES)
def test_rope_types(name: str, spelling: str) -> None:
    """Dynamic: the prefill lies inside the trained context, the decode steps cross its end."""
    reference = reference_model(rope_model_config(name))
    raw = raw_config(reference)
    model = our_model(reference, raw if spelling == "rope_parameters" else old_spelling(raw))
    expected = prefill_and_decode(reference, text())
    assert_same_logits(PagedModel(model).run(text(), [PREFILL] + [1] * STEPS), expected)


def test_dynamic_rope_does_not_depend_on_chunking() -> None:
    model = our_model(reference_model(rope_model_config("dynamic")))
    whole = PagedModel(model).run(text(), [LENGTH])
    assert_same_logits(PagedModel(model).run(text(), [45, 10] + [1] * 5), whole)


@pytest.mark.parametrize("name", ROPES)
def test_high_positions(name: str) -> None:
    """One position a call, because transformers' dynamic looks at the longest of a call."""
    config = rope_model_config(name)
    theirs = LlamaRotaryEmbedding(config)
    ours = RotaryEmbedding(rope_config(config.to_dict()), HEAD_DIM, CPU)
    for position in (0, 31, 47, 48, 127, 128, 4_095, 32_768, 131_071):
        positions = torch.tensor([position])
        cos, sin = ours(positions, torch.float32)
        their_cos, their_sin = theirs(torch.zeros(1), positions[None])
        # A frequency one bit off would show as 0.006 at the last position.
        torch.testing.assert_close(cos[:, 0], their_cos[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(sin[:, 0], their_sin[0], rtol=0, atol=1e-6)
