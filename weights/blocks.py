"""A GGUF file's quantised weights in a converted folder: the same blocks, under Hugging Face names,
rows in Hugging Face's order. What is kept so is not in the folder's floats.
"""

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import gguf
import torch
from safetensors import SafetensorError, safe_open

from server.errors import CheckpointError
from server.kernels.quantized import BLOCK_BYTES, TYPES, QuantizedKind, QuantizedWeight
from weights.gguf.file import GGUFTensor
from weights.gguf.safetensors_writer import write_safetensors

BLOCKS_FILE = "blocks.safetensors"
_KINDS: dict[gguf.GGMLQuantizationType, QuantizedKind] = {
    type_: kind for kind, type_ in TYPES.items()
}
_PIECE_WEIGHTS = 2**18
"""Weights that one thread dequantises at a time: few enough for its caches."""
_MOST_THREADS = 8
"""Each holds a piece in memory."""


class StoredBlocks(NamedTuple):
    """A checkpoint's weights in blocks, and what it lacks of them."""

    weights: Mapping[str, QuantizedWeight]
    """The kept blocks by name, memory-mapped."""
    others: Mapping[str, str]
    """Name -> type of the matrices that the GGUF file has in blocks which are not kept."""


class Stored(NamedTuple):
    """A matrix in blocks, without them."""

    kind: QuantizedKind
    shape: tuple[int, int]
    """[outputs, bytes of a row]"""


def stored(tensor: GGUFTensor) -> Stored | None:
    """The form in which a matrix is kept as it is; None where it is not."""
    kind = _KINDS.get(tensor.type)
    if kind is None or len(tensor.shape) != 2:
        return None
    num_rows = tensor.shape[0]
    return Stored(kind, (num_rows, tensor.data.size // num_rows))


def is_other(tensor: GGUFTensor) -> bool:
    """Whether it is a matrix in blocks of a type that is not kept."""
    is_blocks = gguf.GGML_QUANT_SIZES[tensor.type][0] > 1
    return len(tensor.shape) == 2 and is_blocks and tensor.type not in _KINDS


def write_blocks(
    folder: Path,
    kept: Mapping[str, Stored],
    pieces: Iterable[torch.Tensor],
    others: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder's blocks, or no file if there is nothing to be said.

    Args:
        kept: the matrices by name.
        pieces: their bytes, one matrix after the other, cut anywhere.
        others: name -> type of the matrices in blocks that are not kept.
    """
    if not kept and not others:
        return
    kinds = {name: kind for name, (kind, _) in kept.items()}
    metadata = {"kinds": json.dumps(kinds), "others": json.dumps(dict(others or {}))}
    shapes = {name: shape for name, (_, shape) in kept.items()}
    write_safetensors(folder / BLOCKS_FILE, shapes, torch.uint8, pieces, metadata)


def read_blocks(folder: Path) -> StoredBlocks:
    """What is kept beside a converted GGUF file; nothing for other checkpoints.

    Raises:
        CheckpointError: the file is broken.
    """
    path = folder / BLOCKS_FILE
    if not path.exists():
        return StoredBlocks({}, {})
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            kinds: dict[str, QuantizedKind] = json.loads(metadata["kinds"])
            weights = {n: _weight(n, kind, file.get_tensor(n)) for n, kind in kinds.items()}
            others: dict[str, str] = json.loads(metadata["others"])
            return StoredBlocks(weights, dict(others.items()))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"unreadable: {error}") from None


def _weight(name: str, kind: QuantizedKind, blocks: torch.Tensor) -> QuantizedWeight:
    """Raises KeyError for an unknown kind, ValueError for blocks that are none."""
    is_matrix = blocks.dtype is torch.uint8 and blocks.dim() == 2
    if not is_matrix or blocks.shape[1] % BLOCK_BYTES[kind]:
        raise ValueError(f"tensor {name} is not made of {kind} blocks")
    return QuantizedWeight(kind, blocks)


def fill_from_blocks(slots: Mapping[str, tuple[QuantizedWeight, torch.Tensor]]) -> None:
    """Dequantises weights into floats of whatever precision and device, some rows at a time.

    Args:
        slots: by name: a weight, and what takes its values, of its shape.
    """
    pieces = (
        (weight, slot, first, first + step)
        for weight, slot in slots.values()
        for step in (max(1, _PIECE_WEIGHTS // weight.shape[1]),)
        for first in range(0, len(weight), step)
    )

    def fill(piece: tuple[QuantizedWeight, torch.Tensor, int, int]) -> None:
        weight, slot, first, end = piece
        some = QuantizedWeight(weight.kind, weight.blocks[first:end])
        with torch.no_grad():  # slots are views of parameters, which may want gradients
            slot[first:end].copy_(some.dequantize())

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        for _ in threads.map(fill, pieces):
            pass
