"""Keeps a GGUF file's quantised weights beside the converted ones: the same blocks, under Hugging
Face names, rows in Hugging Face's order."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from server.errors import CheckpointError
from server.kernels.quantized import BLOCK_BYTES, QuantizedKind, QuantizedWeight
from weights.gguf.file import GGUFTensor

BLOCKS_FILE = "blocks.safetensors"
_Q4_0 = gguf.GGMLQuantizationType.Q4_0
_KINDS: dict[gguf.GGMLQuantizationType, QuantizedKind] = {
    _Q4_0: "q4_1",
    gguf.GGMLQuantizationType.Q4_1: "q4_1",
    gguf.GGMLQuantizationType.Q8_0: "q8_0",
}
"""Types whose blocks are kept; Q4_0 becomes Q4_1 with an offset of -8 scales."""


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
    blocks = torch.from_numpy(tensor.data.reshape(tensor.shape[0], -1)[order])
    return kind, _with_offsets(blocks) if tensor.type == _Q4_0 else blocks


def _with_offsets(blocks: torch.Tensor) -> torch.Tensor:
    """Q4_0 (scale, 16 bytes) -> Q4_1 (scale, offset, 16 bytes)."""
    parts = blocks.reshape(-1, 18)
    scale = parts[:, :2].contiguous().view(torch.float16)
    offset = (-8.0 * scale.float()).half().view(torch.uint8)
    return torch.cat((parts[:, :2], offset, parts[:, 2:]), dim=1).reshape(len(blocks), -1)


def write_blocks(folder: Path, blocks: Iterator[tuple[str, QuantizedKind, torch.Tensor]]) -> None:
    """Writes name, kind and blocks of each matrix; nothing if there are none."""
    kinds, tensors = dict[str, str](), dict[str, torch.Tensor]()
    for name, kind, tensor in blocks:
        kinds[name], tensors[name] = kind, tensor
    if tensors:
        # Not save_file, whose files are for the owner alone, whatever the umask.
        whole = save(tensors, metadata={"kinds": json.dumps(kinds)})
        (folder / BLOCKS_FILE).write_bytes(whole)


def read_blocks(folder: Path) -> Mapping[str, QuantizedWeight]:
    """The kept blocks by name, memory-mapped; empty for other checkpoints.

    Raises:
        CheckpointError: the file is broken.
    """
    path = folder / BLOCKS_FILE
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            kinds: dict[str, QuantizedKind] = json.loads((file.metadata() or {})["kinds"])
            return {n: _weight(n, kind, file.get_tensor(n)) for n, kind in kinds.items()}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"unreadable: {error}") from None


def _weight(name: str, kind: QuantizedKind, blocks: torch.Tensor) -> QuantizedWeight:
    """Raises KeyError for an unknown kind, ValueError for blocks that are none."""
    is_matrix = blocks.dtype is torch.uint8 and blocks.dim() == 2
    if not is_matrix or blocks.shape[1] % BLOCK_BYTES[kind]:
        raise ValueError(f"tensor {name} is not made of {kind} blocks")
    return QuantizedWeight(kind, blocks)
