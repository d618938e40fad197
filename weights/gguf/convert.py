"""Converts a GGUF file into a folder in Hugging Face layout.

Quantised matrices that the kernels multiply are copied, block by block; all other tensors become
floats. Both go in pieces of rows, so that a piece is all that is in memory.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch

from server.errors import CheckpointError, UnsupportedModelError
from server.models.config import model_config
from weights.blocks import is_other, stored, write_blocks
from weights.checkpoint import SINGLE_FILE
from weights.gguf.config import gguf_architecture, huggingface_config
from weights.gguf.file import GGUFFile, GGUFTensor, read_gguf
from weights.gguf.foreign import Foreign, foreign_of
from weights.gguf.generation import sampling, token_ids
from weights.gguf.metadata import check_metadata
from weights.gguf.names import ROPE_FREQUENCIES, huggingface_names
from weights.gguf.safetensors_writer import write_safetensors
from weights.gguf.tokenizer import write_tokenizer

_PIECE_ELEMENTS = 2**22
"""Elements dequantised at a time: 16 MiB as float32, a few times that inside gguf."""


def convert_gguf(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool = False) -> None:
    """Writes config.json, generation_config.json, model.safetensors, the quantised blocks and the
    tokenizer's files.

    Args:
        path: The GGUF file.
        folder: An existing, empty folder.
        dtype: Of the written floats; float32 holds dequantised values exactly.
        in_floats: Everything is written in floats, for readers that know no blocks.

    Raises:
        CheckpointError: the file is unreadable, truncated or incomplete.
        UnsupportedModelError: it asks for something that is not implemented.
        OSError: the folder can't be written.
    """
    file = read_gguf(path)
    check_metadata(file)
    foreign = foreign_of(file)
    config = huggingface_config(file) if foreign is None else foreign.config(file)
    _check_layers(file, config["num_hidden_layers"])
    if foreign is None:
        model_config(config)  # refuses what our code can't run before the long part starts
    names = _names(file, foreign, config["num_hidden_layers"])
    write_tokenizer(file, folder)
    _write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    _write_json(folder / "generation_config.json", sampling(file) | token_ids(file))
    tensors = {theirs: file.tensors[ours] for ours, theirs in names.items()}
    # Transformers' code multiplies floats.
    keeps_blocks = foreign is None and not in_floats
    _write_weights(
        folder, tensors, dtype, keeps_blocks, _changes(file, foreign, config["head_dim"])
    )


class _Changes(NamedTuple):
    """How tensors differ from Hugging Face's."""

    rotary_head_dim: int | None
    """Width of a head whose rows of q and k are stored interleaved, else None."""
    norm_offset: float
    """What norms have more."""


def _changes(file: GGUFFile, foreign: Foreign | None, head_dim: int) -> _Changes:
    # llama.cpp's rotary kernel pairs neighbours, so llama's q and k rows are stored interleaved.
    if foreign is None:
        return _Changes(head_dim if gguf_architecture(file) == "llama" else None, 0.0)
    return _Changes(head_dim if foreign.is_interleaved else None, foreign.norm_offset)


def _write_weights(
    folder: Path,
    tensors: Mapping[str, GGUFTensor],
    dtype: torch.dtype,
    keeps_blocks: bool,
    changes: _Changes,
) -> None:
    """Writes floats and blocks of the tensors, which are by Hugging Face name."""
    forms = {name: stored(tensor) for name, tensor in tensors.items()} if keeps_blocks else {}
    kept = {name: form for name, form in forms.items() if form is not None}
    floats = {name: tensor for name, tensor in tensors.items() if name not in kept}
    shapes = {n: shape for name, t in floats.items() for n, shape in _shapes(name, t)}
    values = (
        _dequantised(rows, tensor, changes.norm_offset)
        for tensor in floats.values()
        for rows in _rows(tensor, changes.rotary_head_dim)
    )
    write_safetensors(folder / SINGLE_FILE, shapes, dtype, values)
    if not keeps_blocks:
        return
    blocks = (
        torch.from_numpy(rows) for n in kept for rows in _rows(tensors[n], changes.rotary_head_dim)
    )
    others = {name: t.type.name.lower() for name, t in tensors.items() if is_other(t)}
    write_blocks(folder, kept, blocks, others)


def half_split_rows(num_rows: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Order that takes q or k rows from interleaved to half-split rotary layout.

    Row r of the result is stored row `order[r]`. Heads of 4: stored rows 0 1 2 3 are the pairs
    (0, 1) and (2, 3); half-split puts the pairs' first members before their second: 0 2 1 3.
    """
    stored = np.arange(num_rows).reshape(-1, head_dim // 2, 2)
    return stored.swapaxes(1, 2).reshape(-1)


def _check_layers(file: GGUFFile, num_layers: int) -> None:
    if num_layers > len(file.tensors):
        reason = f"metadata has block_count={num_layers}, but there are {len(file.tensors)} tensors"
        raise CheckpointError(file.path, reason)


def _names(file: GGUFFile, foreign: Foreign | None, num_layers: int) -> dict[str, str]:
    """The file's tensors: GGUF name → Hugging Face name. Rotary factors are in the config."""
    if foreign is None:
        known = huggingface_names(gguf_architecture(file), num_layers)
        in_config = (ROPE_FREQUENCIES,)
    else:
        known, in_config = foreign.names(num_layers), foreign.in_config
    unknown = [name for name in file.tensors if name not in known and name not in in_config]
    if unknown:
        shown = ", ".join(unknown[:8])
        raise UnsupportedModelError(
            f"{file.path}: {len(unknown)} tensors are not supported, among them {shown}"
        )
    missing = [f"blk.{i}.attn_output.weight" for i in range(num_layers)]
    missing = [name for name in missing if name not in file.tensors]
    if missing:
        raise CheckpointError(file.path, f"has no tensor {missing[0]}")
    return {name: known[name] for name in file.tensors if name in known}


def _rows(tensor: GGUFTensor, rotary_head_dim: int | None) -> Iterator[npt.NDArray[np.uint8]]:
    """The tensor's bytes, row by row, a few rows at a time, in Hugging Face's order.

    Args:
        rotary_head_dim: Head width if q and k are stored interleaved, else None.
    """
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
    # A vector has a row per element if it can be cut anywhere: biases are reordered like rows.
    width = tensor.shape[-1] if len(tensor.shape) > 1 else block_size
    rows = tensor.data.reshape(-1, width // block_size * block_bytes)
    order = _row_order(tensor.name, len(rows), rotary_head_dim)
    step = max(1, _PIECE_ELEMENTS // width)
    for start in range(0, len(rows), step):
        yield rows[order[start : start + step]]


def _dequantised(
    rows: npt.NDArray[np.uint8], tensor: GGUFTensor, norm_offset: float
) -> torch.Tensor:
    values = np.ascontiguousarray(gguf.quants.dequantize(rows, tensor.type), dtype=np.float32)
    is_norm = tensor.name.endswith("norm.weight")
    return torch.from_numpy(values - np.float32(norm_offset) if is_norm else values)


def _shapes(name: str, tensor: GGUFTensor) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in Hugging Face's layout: each expert of one tensor has its own there."""
    if "{}" not in name:
        yield name, tensor.shape
    else:
        yield from ((name.format(i), tensor.shape[1:]) for i in range(tensor.shape[0]))


def _row_order(name: str, num_rows: int, rotary_head_dim: int | None) -> npt.NDArray[np.int64]:
    if rotary_head_dim is None or not (".attn_q." in name or ".attn_k." in name):
        return np.arange(num_rows)
    if num_rows % rotary_head_dim:
        raise CheckpointError(
            name, f"{num_rows} rows are no multiple of the head's {rotary_head_dim}"
        )
    return half_split_rows(num_rows, rotary_head_dim)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
