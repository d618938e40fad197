"""Blocks kept beside a converted GGUF file: the file's own weights, in Hugging Face's rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from server.errors import CheckpointError
from server.kernels.quantized import BLOCK_BYTES, QuantizedKind
from tests.weights.gguf.test_types import random_blocks
from weights.blocks import BLOCKS_FILE, Stored, read_blocks, write_blocks
from weights.gguf.convert import half_split_rows
from weights.gguf.file import read_gguf

WriteGGUF = Callable[..., Path]
Convert = Callable[..., tuple[Path, dict[str, torch.Tensor]]]
Type = gguf.GGMLQuantizationType
QUANTISED_BY_GGUF = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
}
"""Matrices whose rows groups of 32 divide."""
DOWN, HF_DOWN = "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"


def quantised(tensors: dict[str, Any], kind: gguf.GGMLQuantizationType) -> dict[str, Any]:
    """Every matrix that can be, quantised by the gguf package."""
    return {
        name: (gguf.quants.quantize(tensor, kind), kind) if name in NAMES else tensor
        for name, tensor in tensors.items()
    }


def dequantised(path: Path, name: str) -> torch.Tensor:
    """The stored matrix by gguf's own reading, rows as stored."""
    tensor = read_gguf(path).tensors[name]
    values = gguf.quants.dequantize(tensor.data.reshape(tensor.shape[0], -1), tensor.type)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize("kind", QUANTISED_BY_GGUF)
def test_blocks_mean_what_the_file_says(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], kind: Type
) -> None:
    path = write_gguf(tensors=quantised(tensors, kind))
    folder, weights = convert(path, in_floats=False)
    assert not weights.keys() & set(NAMES.values())
    blocks, others = read_blocks(folder)
    assert (set(blocks), others) == (set(NAMES.values()), {})
    weights = convert(path)[1]
    for ours, theirs in NAMES.items():
        expected = dequantised(path, ours)
        if "attn_q" in ours or "attn_k" in ours:
            expected = expected[half_split_rows(len(expected), 8)]
        assert blocks[theirs].kind == kind.name.lower()
        assert torch.equal(blocks[theirs].dequantize(), expected), theirs
        assert torch.equal(weights[theirs], expected), theirs


@pytest.mark.parametrize("kind", QUANTISED_BY_GGUF)
def test_blocks_are_the_files_bytes(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], kind: Type
) -> None:
    stored = quantised(tensors, kind)
    blocks = read_blocks(convert(write_gguf(tensors=stored), in_floats=False)[0]).weights
    for ours, theirs in NAMES.items():
        rows = torch.from_numpy(stored[ours][0])
        if "attn_q" in ours or "attn_k" in ours:
            rows = rows[half_split_rows(len(rows), 8)]
        assert torch.equal(blocks[theirs].blocks, rows), theirs


def test_rows_of_other_architectures_keep_their_order(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]
) -> None:
    """Only llama's q and k are stored interleaved."""
    stored = quantised(tensors, Type.Q8_0)
    biases = {
        f"blk.0.attn_{x}.bias": np.ones(n, np.float32) for x, n in (("q", 32), ("k", 16), ("v", 16))
    }
    path = write_gguf(architecture="qwen2", tensors=stored | biases)
    blocks = read_blocks(convert(path, in_floats=False)[0]).weights
    for ours, theirs in NAMES.items():
        assert torch.equal(blocks[theirs].blocks, torch.from_numpy(stored[ours][0]))


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL])
def test_k_quants_are_kept(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], kind: Type
) -> None:
    rows = random_blocks(kind, 32, 512)
    path = write_gguf(tensors=tensors | {DOWN: (rows, kind)})
    blocks, others = read_blocks(convert(path, in_floats=False)[0])
    assert (set(blocks), others) == ({HF_DOWN}, {})
    assert blocks[HF_DOWN].kind == kind.name.lower()
    assert torch.equal(blocks[HF_DOWN].blocks, torch.from_numpy(rows))
    assert torch.equal(blocks[HF_DOWN].dequantize(), dequantised(path, DOWN))


@pytest.mark.parametrize("kind", [Type.Q2_K, Type.Q3_K, Type.IQ4_XS])
def test_other_blocks_are_named(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], kind: Type
) -> None:
    down = {DOWN: (random_blocks(kind, 32, 512), kind)}
    path = write_gguf(tensors=quantised(tensors, Type.Q8_0) | down)
    folder, weights = convert(path, in_floats=False)
    assert torch.equal(weights[HF_DOWN], dequantised(path, DOWN))
    blocks, others = read_blocks(folder)
    assert (set(blocks), others) == (set(NAMES.values()), {HF_DOWN: kind.name.lower()})
    folder, _ = convert(write_gguf("only.gguf", tensors=tensors | down), in_floats=False)
    assert read_blocks(folder) == ({}, {HF_DOWN: kind.name.lower()})


def test_vectors_are_not_kept(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]
) -> None:
    norm = (gguf.quants.quantize(tensors["output_norm.weight"], Type.Q8_0), Type.Q8_0)
    folder, weights = convert(
        write_gguf(tensors=tensors | {"output_norm.weight": norm}), in_floats=False
    )
    assert weights["model.norm.weight"].shape == (32,)
    assert not (folder / BLOCKS_FILE).exists()


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16])
def test_files_without_quantised_tensors_have_no_blocks(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], kind: Type
) -> None:
    dtype = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}.get(kind, torch.float32)
    stored = {
        name: (torch.from_numpy(value).to(dtype).view(torch.uint8).numpy(), kind)
        for name, value in tensors.items()
    }
    folder, _ = convert(write_gguf(tensors=stored), in_floats=False)
    assert not (folder / BLOCKS_FILE).exists()
    assert read_blocks(folder) == ({}, {})


def test_the_floats_precision_does_not_matter(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]
) -> None:
    path = write_gguf(tensors=quantised(tensors, Type.Q4_0))
    exact, rounded = (
        read_blocks(convert(path, dtype, in_floats=False)[0]).weights
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(exact[name].blocks, rounded[name].blocks) for name in exact)


def test_written_blocks_come_back(tmp_path: Path) -> None:
    written: dict[str, tuple[QuantizedKind, torch.Tensor]] = {
        "a": ("q4_1", torch.arange(120, dtype=torch.uint8).reshape(2, 60)),
        "b": ("q8_0", torch.arange(34, dtype=torch.uint8).reshape(1, 34)),
    }
    kept = {n: Stored(kind, (len(rows), rows.shape[1])) for n, (kind, rows) in written.items()}
    write_blocks(tmp_path, kept, (rows for _, rows in written.values()))
    found = read_blocks(tmp_path).weights
    assert {name: weight.kind for name, weight in found.items()} == {"a": "q4_1", "b": "q8_0"}
    assert {name: weight.shape for name, weight in found.items()} == {"a": (2, 96), "b": (1, 32)}
    assert all(torch.equal(found[name].blocks, written[name][1]) for name in written)


GOOD = torch.zeros(2, BLOCK_BYTES["q4_1"], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("blocks", "metadata", "reason"),
    [
        (GOOD, None, "kinds"),
        (GOOD, {"format": "pt"}, "kinds"),
        (GOOD, {"kinds": '{"a": '}, "unreadable"),
        (GOOD, {"kinds": '["a"]'}, "unreadable"),
        (GOOD, {"kinds": '{"a": "q3_k"}'}, "q3_k"),
        (GOOD, {"kinds": '{"a": "q4_1"}'}, "others"),
        (GOOD, {"kinds": '{"a": "q4_1"}', "others": "[1]"}, "unreadable"),
        (GOOD, {"kinds": '{"a": ["q4_1"]}'}, "unreadable"),
        (GOOD, {"kinds": '{"b": "q4_1"}'}, "tensor b"),
        (GOOD, {"kinds": '{"a": "q8_0"}'}, "tensor a is not made of q8_0 blocks"),
        (GOOD.flatten(), {"kinds": '{"a": "q4_1"}'}, "tensor a is not made of q4_1 blocks"),
        (GOOD.float(), {"kinds": '{"a": "q4_1"}'}, "tensor a is not made of q4_1 blocks"),
    ],
)  # fmt: skip
def test_broken_contents_are_refused_naming_the_file(
    tmp_path: Path, blocks: torch.Tensor, metadata: dict[str, str] | None, reason: str
) -> None:
    save_file({"a": blocks}, tmp_path / BLOCKS_FILE, metadata=metadata)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_blocks(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / BLOCKS_FILE}: ")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_files_are_refused_naming_the_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / BLOCKS_FILE
    save_file({"a": GOOD}, path, metadata={"kinds": json.dumps({"a": "q4_1"})})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        read_blocks(tmp_path)
    assert caught.value.path == path
