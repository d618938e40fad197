"""Weights that a converted GGUF file keeps in blocks, loaded as floats, and left in blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from server.errors import CheckpointError
from server.kernels.quantized import QuantizedWeight, quantize
from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.quantization import Quantization
from server.models.slices import Slice
from tests.weights.test_blocks import quantised
from weights.blocks import read_blocks
from weights.checkpoint import load_weights, read_config

WriteGGUF = Callable[..., Path]
Convert = Callable[..., tuple[Path, dict[str, torch.Tensor]]]
Folders = tuple[Path, dict[str, torch.Tensor]]
Q8_0 = gguf.GGMLQuantizationType.Q8_0
QUERY, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def folders(write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]) -> Folders:
    """A folder with blocks, and all weights in floats."""
    path = write_gguf(tensors=quantised(tensors, Q8_0))
    return convert(path, in_floats=False)[0], convert(path)[1]


def load(folder: Path, slots: dict[str, torch.Tensor], **slices: Slice) -> None:
    load_weights(folder, slots, lambda name: True, slices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_load_as_the_floats_that_they_mean(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("weights.blocks._PIECE_WEIGHTS", 100)  # three rows, which divides nothing
    folder, expected = folders
    slots = {name: torch.empty(tensor.shape, dtype=dtype) for name, tensor in expected.items()}
    load(folder, slots)
    for name, tensor in expected.items():
        assert torch.equal(slots[name], tensor.to(dtype)), name


@pytest.mark.parametrize("part", [Slice(0, 8, 16, 32), Slice(1, 5, 11, 32)])
def test_a_rank_takes_its_part_of_blocks(folders: Folders, part: Slice) -> None:
    folder, expected = folders
    slots = {QUERY: torch.empty(part.of(expected[QUERY]).shape)}
    load(folder, slots, **{QUERY: part})
    assert torch.equal(slots[QUERY], part.of(expected[QUERY]))


def test_slots_without_memory_are_left_alone(folders: Folders) -> None:
    folder, expected = folders
    slots = {
        QUERY: torch.empty(expected[QUERY].shape, device="meta"),
        DOWN: torch.empty(expected[DOWN].shape),
    }
    load(folder, slots)
    assert slots[QUERY].is_meta
    assert torch.equal(slots[DOWN], expected[DOWN])


def test_blocks_of_another_shape_are_named(folders: Folders) -> None:
    with pytest.raises(CheckpointError, match=rf"tensor {QUERY} has shape \[32, 32\], the model"):
        load(folders[0], {QUERY: torch.empty(32, 64)})


def test_missing_and_left_over_names_count_blocks_too(folders: Folders) -> None:
    folder, expected = folders
    slots = {name: torch.empty(tensor.shape) for name, tensor in expected.items()}
    with pytest.raises(CheckpointError, match="is missing 1 tensor: other"):
        load_weights(folder, slots | {"other": torch.empty(1)}, lambda name: False)
    del slots[QUERY]
    with pytest.raises(CheckpointError, match=rf"has left-over 1 tensor: {QUERY}"):
        load_weights(folder, slots, lambda name: False)


def test_parameters_give_back_what_blocks_hold(folders: Folders) -> None:
    """A product whose parts are not all in blocks stays; so does a tied embedding."""
    folder = folders[0]
    config = model_config(read_config(folder))
    parameters = LlamaParameters(config, Placement(torch.device("cpu"), torch.bfloat16))
    stored = read_blocks(folder).weights
    parameters.keep_in_blocks({n: weight for n, weight in stored.items() if "k_proj" not in n})
    (layer,) = parameters.layers
    assert [linear.weight.is_meta for linear in layer.linears] == [False, True, True, False]
    assert not parameters.embedding.is_meta and parameters.head_weight is parameters.embedding


def test_parts_that_do_not_stack_are_rounded_from_their_blocks() -> None:
    """The kernels take parts of several kinds in sixteens of outputs; 8 are too few."""
    first = quantize(torch.randn(8, 32), "q8_0")
    second = quantize(torch.randn(8, 32), "q4_1")
    whole = Quantization("q8_0", {"a": first, "b": second})
    made = whole.of({"a": 8, "b": 8}, torch.empty(16, 32, device="meta", dtype=torch.float32))
    assert isinstance(made, QuantizedWeight)
    floats = torch.cat([first.dequantize(), second.dequantize()])
    assert torch.equal(made.blocks, quantize(floats, "q8_0").blocks)
