"""A GPU's memory, shared out on paper."""

import pytest
import torch

from server.config import ModelSettings, load_settings
from server.engine.step.device.capture import MOST_GRAPHS
from server.errors import ConfigError
from server.kernels.triton import ATTENTION_WORKSPACE
from server.loading.memory import GpuMemory, check_memory_settings, gpu_memory, scheduler_config
from tests.engine.tiny import MODEL

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_cache_gets_what_is_left() -> None:
    memory = GpuMemory(total=1000, used=300, steps=150, graphs=50, utilization=0.9)
    assert memory.kv == 400
    assert GpuMemory(total=1000, used=800, steps=150, graphs=0, utilization=0.9).kv == 0


@pytest.mark.parametrize("has_graphs", [True, False])
def test_steps_and_graphs_are_set_aside(has_graphs: bool) -> None:
    """10 + 2 x 4 rows of 3 x (96 + 2 x 32) halves; 8 rows of 4 x 61 floats. Graphs compute trees in
    memory of their own."""
    settings = load_settings(
        ModelSettings,
        max_num_batched_tokens=10,
        max_num_seqs=2,
        speculation_nodes=3,
        gpu_memory_utilization=0.5,
    )
    total = 10 * 2**30
    memory = gpu_memory(settings, MODEL, torch.bfloat16, total, total - 30_000, has_graphs)
    trees = 8 * 3 * (96 + 64) * 2 + 8 * 4 * 61 * 4 + ATTENTION_WORKSPACE
    assert memory.steps == 10 * 3 * (96 + 64) * 2 + trees
    assert memory.graphs == (trees + MOST_GRAPHS * 2**23 if has_graphs else 0)
    assert memory.used == 30_000
    assert memory.kv == total // 2 - 30_000 - memory.steps - memory.graphs


def test_all_of_it_becomes_blocks() -> None:
    settings = load_settings(ModelSettings, block_size=4, max_model_len=64)
    limits = scheduler_config(settings, MODEL, token_bytes=10, free=4321, on_cpu=False)
    assert limits.num_blocks == 4321 // 40


def test_too_little_names_the_setting() -> None:
    settings = load_settings(ModelSettings, block_size=4, max_model_len=64)
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        scheduler_config(settings, MODEL, token_bytes=10, free=100, on_cpu=False)


@pytest.mark.parametrize(
    ("device", "name"), [(CPU, "gpu_memory_utilization"), (CUDA, "kv_memory_fraction")]
)
def test_a_setting_of_the_other_device_is_refused(device: torch.device, name: str) -> None:
    check_memory_settings(load_settings(ModelSettings), device)
    with pytest.raises(ConfigError, match=name):
        check_memory_settings(load_settings(ModelSettings, **{name: 0.5}), device)
