from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.errors import CheckpointError, UnsupportedModelError
from server.models.config import RopeConfig, model_config
from weights.gguf.config import huggingface_config
from weights.gguf.file import read_gguf
from weights.gguf.rope import llama3_factors

WriteGGUF = Callable[..., Path]


def config_of(path: Path) -> dict[str, Any]:
    return huggingface_config(read_gguf(path))


def test_every_setting_arrives(write_gguf: WriteGGUF) -> None:
    config = model_config(config_of(write_gguf()))
    assert config.architecture == "LlamaForCausalLM"
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (40, 32, 48)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (
        1,
        4,
        2,
        8,
    )
    assert config.rms_norm_eps == 1e-5  # and not its neighbour in single precision
    assert config.max_position == 64
    assert config.tie_word_embeddings
    assert not config.attention_bias and not config.mlp_bias and not config.qk_norm
    assert config.rope == RopeConfig(theta=10_000.0, original_max_position=64)
    assert config.eos_token_ids == (1,)


def test_an_output_tensor_unties_the_embedding(
    write_gguf: WriteGGUF, tensors: dict[str, Any]
) -> None:
    path = write_gguf(tensors=tensors | {"output.weight": tensors["token_embd.weight"]})
    assert config_of(path)["tie_word_embeddings"] is False


def test_a_sliding_window_makes_it_mistral(write_gguf: WriteGGUF) -> None:
    config = model_config(config_of(write_gguf(settings={"attention.sliding_window": 16})))
    assert config.architecture == "MistralForCausalLM"
    assert config.sliding_windows == (16,)


@pytest.mark.parametrize(
    ("settings", "rope"),
    [
        ({"rope.freq_base": 5e5}, RopeConfig(theta=5e5, original_max_position=64)),
        ({"rope.freq_base": None}, RopeConfig(theta=1e4, original_max_position=64)),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            RopeConfig(type="linear", factor=4.0, original_max_position=64),
        ),
        (
            {"rope.scale_linear": 2.0},
            RopeConfig(type="linear", factor=2.0, original_max_position=64),
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 16,
                "rope.scaling.yarn_beta_fast": 16.0,
                "rope.scaling.finetuned": True,
            },
            RopeConfig(type="yarn", factor=4.0, original_max_position=16, beta_fast=16.0),
        ),
        ({"rope.scaling.type": "none"}, RopeConfig(original_max_position=64)),
    ],
)
def test_rotary_settings(write_gguf: WriteGGUF, settings: dict[str, Any], rope: RopeConfig) -> None:
    assert model_config(config_of(write_gguf(settings=settings))).rope == rope


def test_llama3_factors_become_parameters(write_gguf: WriteGGUF, tensors: dict[str, Any]) -> None:
    factors = llama3_factors(5e5, 128, 32.0).astype(np.float32)
    path = write_gguf(
        settings={"rope.freq_base": 5e5, "attention.key_length": 128},
        tensors=tensors | {"rope_freqs.weight": factors},
    )
    assert model_config(config_of(path)).rope == RopeConfig(
        theta=5e5,
        type="llama3",
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position=8192,
    )


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            {"architecture": "gemma3"},
            "GGUF architecture 'gemma3' is not supported; supported: llama",
        ),
        ({"settings": {"expert_count": 8}}, "llama.expert_count=8 is not supported"),
        ({"settings": {"attention.scale": 0.1}}, "llama.attention.scale=0.1"),
        ({"settings": {"attention.causal": False}}, "llama.attention.causal=False"),
        ({"settings": {"attention.value_length": 16}}, "attention.value_length=16 with heads of 8"),
        ({"settings": {"rope.dimension_count": 4}}, "rope.dimension_count=4 with heads of 8"),
        ({"settings": {"feed_forward_length": [48, 64]}}, "feed_forward_length differs between"),
        (
            {"architecture": "qwen2", "settings": {"attention.sliding_window": 16}},
            "qwen2.attention.sliding_window=16 is not supported",
        ),
        (
            {"settings": {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}},
            "rope scaling 'longrope' is not supported in GGUF files",
        ),
        (
            {
                "settings": {
                    "rope.scaling.type": "yarn",
                    "rope.scaling.factor": 2.0,
                    "rope.scaling.attn_factor": 0.5,
                }
            },
            "rope.scaling.attn_factor=0.5 is not supported",
        ),
    ],
)
def test_refused_by_name(write_gguf: WriteGGUF, what: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config_of(write_gguf(**what))
    assert text in str(caught.value)


def test_biases_on_some_projections_are_refused(
    write_gguf: WriteGGUF, tensors: dict[str, Any]
) -> None:
    path = write_gguf(tensors=tensors | {"blk.0.attn_q.bias": np.zeros(32, np.float32)})
    with pytest.raises(UnsupportedModelError, match="biases on only some of q, k, v and output"):
        config_of(path)


def test_other_rotary_tables_are_refused(write_gguf: WriteGGUF, tensors: dict[str, Any]) -> None:
    factors = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    path = write_gguf(tensors=tensors | {"rope_freqs.weight": factors})
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight does not hold Llama 3"):
        config_of(path)


def test_neutral_settings_are_fine(write_gguf: WriteGGUF) -> None:
    settings = {
        "expert_count": 0,
        "attention.causal": True,
        "vocab_size": 999,
        "attention.head_count_kv": [2],
        "rope.dimension_count": 8,
    }
    assert config_of(write_gguf(settings=settings)) == config_of(write_gguf())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"block_count": None}, "metadata has no llama.block_count"),
        (
            {"attention.layer_norm_rms_epsilon": None},
            "metadata has no llama.attention.layer_norm_rms",
        ),
        ({"attention.head_count": 0}, "metadata has attention.head_count=0"),
        ({"attention.key_length": 7}, "metadata has heads of 7; rotary needs pairs"),
        ({"embedding_length": "wide"}, "metadata has llama.embedding_length='wide'"),
    ],
)
def test_incomplete_metadata(write_gguf: WriteGGUF, settings: dict[str, Any], text: str) -> None:
    path = write_gguf(settings=settings)
    with pytest.raises(CheckpointError) as caught:
        config_of(path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_no_embedding(write_gguf: WriteGGUF, tensors: dict[str, Any]) -> None:
    del tensors["token_embd.weight"]
    with pytest.raises(CheckpointError, match=r"has no tensor token_embd\.weight"):
        config_of(write_gguf(tensors=tensors))
