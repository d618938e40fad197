"""What a config may ask for: read right, or refused by name."""

from typing import Any

import pytest

from server.errors import UnsupportedModelError
from server.models.config import RopeConfig, model_config

RAW: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
QWEN2, QWEN3 = ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"]
MISTRAL = ["MistralForCausalLM"]
ALL = (None, None, None)


def read(**changes: Any) -> Any:
    return model_config(RAW | changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": None, "model_type": "mamba"}, "mamba"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "proportional"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "per layer type"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"bits": 4}}, "unknown"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        read(**changes)


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in RAW if key != "architectures" for value in (0, -5, 2.5, "8")),
        *({"num_key_value_heads": value} for value in (3, 8, -1)),
        *({"head_dim": value} for value in (-4, 1.5, True)),
        *({"rms_norm_eps": value} for value in (-1e-6, float("nan"), float("inf"), None)),
        *({"rope_theta": value} for value in (-1.0, float("nan"), "1e4")),
        *({"rope_parameters": YARN | {"rope_theta": value}} for value in (-5.0, 1.0)),
        *({"rope_parameters": YARN | {"factor": value}} for value in (0, -2.0, "4")),
        {"rope_parameters": YARN | {"beta_fast": -1}},
        {"rope_parameters": YARN | {"attention_factor": float("nan")}},
        {"rope_parameters": YARN | {"original_max_position_embeddings": -8}},
        {"rope_parameters": YARN | {"rope_type": "llama3", "low_freq_factor": 4.0}},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(changes: dict[str, Any]) -> None:
    """They end in an error that names them, not in a traceback or in NaN."""
    (key,) = changes
    name = (
        next(n for n, v in changes[key].items() if YARN.get(n) != v)
        if isinstance(changes[key], dict)
        else key
    )
    with pytest.raises(UnsupportedModelError, match=name if name != "rope_type" else "low_freq"):
        read(**changes)


@pytest.mark.parametrize("key", [key for key in RAW if key != "architectures"])
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        model_config({name: value for name, value in RAW.items() if name != key})


def test_first_supported_architecture_counts() -> None:
    assert read(architectures=["Other", *QWEN3]).architecture == "Qwen3ForCausalLM"


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, ALL),
        ({"sliding_window": 8}, ALL),
        ({"architectures": MISTRAL, "sliding_window": 8}, (8, 8, 8)),
        ({"architectures": MISTRAL, "sliding_window": None}, ALL),
        ({"architectures": MISTRAL}, (4096, 4096, 4096)),
        ({"architectures": QWEN2, "sliding_window": 8}, ALL),
        ({"architectures": QWEN2, "sliding_window": 8, "use_sliding_window": False}, ALL),
        (
            {"architectures": QWEN2, "sliding_window": 8, "use_sliding_window": True}
            | {"max_window_layers": 2},
            (None, None, 8),
        ),
        (
            {"architectures": QWEN2, "sliding_window": 8, "use_sliding_window": True}
            | {"max_window_layers": 0},
            (8, 8, 8),
        ),
        ({"architectures": QWEN2, "sliding_window": 8, "use_sliding_window": True}, ALL),
        (
            {"architectures": QWEN3, "sliding_window": 8, "use_sliding_window": True}
            | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            (8, None, 8),
        ),
        (
            {"architectures": QWEN3, "sliding_window": 8, "use_sliding_window": False}
            | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            ALL,
        ),
    ],
)
def test_sliding_windows(changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert read(**changes).sliding_windows == windows


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ()), (2, (2,)), (0, (0,)), ([5, 7], (5, 7)), ([], ())]
)
def test_eos_token_ids(value: Any, ids: tuple[int, ...]) -> None:
    assert read(eos_token_id=value).eos_token_ids == ids


@pytest.mark.parametrize(("value", "head_dim"), [(None, 12), (20, 20)])
def test_head_dim(value: int | None, head_dim: int) -> None:
    assert read(head_dim=value).head_dim == head_dim
    assert read().head_dim == 12


@pytest.mark.parametrize(("value", "num_kv_heads"), [(None, 4), (2, 2)])
def test_kv_heads(value: int | None, num_kv_heads: int) -> None:
    assert read(num_key_value_heads=value).num_kv_heads == num_kv_heads


@pytest.mark.parametrize(
    ("changes", "biases"),
    [
        ({}, (False, False)),
        ({"attention_bias": True}, (True, True)),
        ({"architectures": QWEN2}, (True, False)),
        ({"architectures": QWEN3}, (False, False)),
        ({"architectures": QWEN3, "attention_bias": True}, (True, True)),
    ],
)
def test_biases(changes: dict[str, Any], biases: tuple[bool, bool]) -> None:
    config = read(**changes)
    assert (config.attention_bias, config.output_bias) == biases


def test_rope_defaults() -> None:
    assert read().rope == RopeConfig(theta=10_000.0, original_max_position=128)


def test_both_rope_spellings_read_the_same() -> None:
    scaling = {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 2.0}
    new = read(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    old = read(rope_theta=5e5, rope_scaling={"type": "llama3", **scaling})
    assert new == old
    assert new.rope == RopeConfig(
        5e5, "llama3", factor=8.0, original_max_position=64, low_freq_factor=2.0
    )


@pytest.mark.parametrize(("kind", "original"), [("yarn", 16), ("llama3", 16), ("dynamic", 128)])
def test_original_context_of_the_model_beats_that_of_the_scaling(kind: str, original: int) -> None:
    scaling = {"type": kind, "factor": 2.0, "original_max_position_embeddings": 32}
    config = read(rope_scaling=scaling, original_max_position_embeddings=16)
    assert config.rope.original_max_position == original


def test_yarn_factor_left_open_is_the_ratio_of_the_contexts() -> None:
    scaling = {"type": "yarn", "factor": None, "original_max_position_embeddings": 32}
    assert read(rope_scaling=scaling).rope.factor == 4.0
