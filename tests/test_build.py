"""Sizing of the KV pool and names of models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.errors import ConfigError
from server.loading.memory import scheduler_config, short_context
from tests.engine.tiny import CONFIG, MODEL
from weights.model_names import model_name

SHAPE = CacheShape(num_layers=2, num_kv_heads=2, head_dim=8, dtype=torch.bfloat16)
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 2


def sized(free: int = 2**40, on_cpu: bool = True, **settings: object) -> tuple[int, int]:
    """-> (num_blocks, max_model_len) for a model of 256 positions."""
    config = scheduler_config(
        load_settings(ModelSettings, **settings), MODEL, BYTES_PER_TOKEN, free, on_cpu
    )
    return config.num_blocks, config.max_model_len


def test_bytes_per_token() -> None:
    assert SHAPE.bytes_per_token == BYTES_PER_TOKEN


def test_default_is_three_full_sequences() -> None:
    assert sized() == (3 * 16, 256)


def test_little_free_memory_makes_the_pool_smaller_and_then_the_context_shorter() -> None:
    assert sized(free=2 * 20 * 16 * BYTES_PER_TOKEN) == (20, 256)
    assert sized(free=2 * 10 * 16 * BYTES_PER_TOKEN) == (10, 160)


def test_a_gpu_gives_the_whole_share() -> None:
    assert sized(free=1000 * 16 * BYTES_PER_TOKEN, on_cpu=False) == (1000, 256)


def test_kv_memory_is_taken_literally() -> None:
    assert sized(kv_memory=100 * 16 * BYTES_PER_TOKEN) == (100, 256)


def test_a_shorter_context_can_be_asked_for_and_a_longer_one_not() -> None:
    assert sized(max_model_len=100) == (3 * 7, 100)
    with pytest.raises(ConfigError, match=r"max_model_len=257.*256 positions"):
        sized(max_model_len=257)


@pytest.mark.parametrize(
    ("max_position", "max_model_len", "warns"),
    [(8192, 255, True), (8192, 256, False), (128, 128, False), (128, 64, True)],
)
def test_a_context_too_short_to_answer_in_is_warned_of(
    max_position: int, max_model_len: int, warns: bool
) -> None:
    limits = replace(CONFIG, max_model_len=max_model_len)
    warning = short_context(limits, replace(MODEL, max_position=max_position))
    assert (warning is not None) == warns
    if warning is not None:
        assert f"{max_model_len} tokens together" in warning and f"{max_position:,}" in warning


def test_a_pool_too_small_for_the_asked_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kv_memory=.*holds 160 tokens.*256"):
        sized(max_model_len=256, kv_memory=10 * 16 * BYTES_PER_TOKEN)
    with pytest.raises(ConfigError, match="holds 0 tokens"):
        sized(kv_memory=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_pool_is_zero_and_shaped(dtype: torch.dtype) -> None:
    caches = allocate_kv(replace(SHAPE, dtype=dtype), 5, 4, torch.device("cpu"))
    assert len(caches) == 2
    assert caches[1].keys.shape == (5, 4, 2, 8)
    assert caches[1].values.dtype is dtype
    assert all(not cache.keys.any() and not cache.values.any() for cache in caches)
    caches[0].keys.fill_(1)
    assert not caches[0].values.any()
    assert not caches[1].keys.any()


def test_model_names(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert model_name(DEFAULT_MODEL) == DEFAULT_MODEL
    assert model_name(str(folder)) == "my-model"
    assert model_name("/models/Tiny.Q4_0.gguf") == "Tiny.Q4_0"
    assert model_name("org/name") == "org/name"
