"""Keeps a GGUF file's quantised weights beside the converted ones: the same blocks, under Hugging
Face names, rows in Hugging Face's order."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from server.errors import CheckpointError
from server.kernels.quantized import BLOCK_BYTES, TYPES, QuantizedKind, QuantizedWeight
from weights.gguf.file import GGUFTensor

BLOCKS_FILE = "blocks.safetensors"
_KINDS: dict[gguf.GGMLQuantizationType, QuantizedKind] = {
    type_: kind for kind, type_ in TYPES.items()
}


class StoredBlocks(NamedTuple):
    """A checkpoint's weights in blocks, and what it lacks of them."""

    weights: Mapping[str, QuantizedWeight]
    """The kept blocks by name, memory-mapped."""
    others: Mapping[str, str]
    """Name -> type of the matrices that the GGUF file has in blocks which are not kept."""


def stored_blocks(
    tensor: GGUFTensor, order: npt.NDArray[np.int64]
) -> tuple[QuantizedKind, torch.Tensor] | None:
    """A matrix's blocks [outputs, row bytes], or None where they are of a type that is not kept.

    Args:
        order: row i of the result is stored row order[i].
    """
    kind = _KINDS.get(tensor.type)
    if kind is None or len(tensor.shape) != 2:
        return None
    return kind, torch.from_numpy(tensor.data.reshape(tensor.shape[0], -1)[order])


def is_other(tensor: GGUFTensor) -> bool:
    """Whether it is a matrix in blocks of a type that is not kept."""
    is_blocks = gguf.GGML_QUANT_SIZES[tensor.type][0] > 1
    return len(tensor.shape) == 2 and is_blocks and tensor.type not in _KINDS


def write_blocks(
    folder: Path,
    blocks: Iterator[tuple[str, QuantizedKind, torch.Tensor]],
    others: Mapping[str, str] | None = None,
) -> None:
    """Writes name, kind and blocks of each matrix, and name and type of the others; nothing if
    there are none of both."""
    kinds, tensors = dict[str, str](), dict[str, torch.Tensor]()
    for name, kind, tensor in blocks:
        kinds[name], tensors[name] = kind, tensor
    if tensors or others:
        # Not save_file, whose files are for the owner alone, whatever the umask.
        metadata = {"kinds": json.dumps(kinds), "others": json.dumps(dict(others or {}))}
        (folder / BLOCKS_FILE).write_bytes(save(tensors, metadata=metadata))


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
