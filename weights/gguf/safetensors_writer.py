"""Writes a safetensors file piece by piece.

`safetensors.torch.save_file` wants every tensor in memory at once; a conversion has one at a time.
Layout: u64 header length · JSON header (name → dtype, shape, byte range) · the data, in order.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

_DTYPE_NAMES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8",
}  # fmt: skip
_HEADER_ALIGNMENT = 8


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    pieces: Iterable[torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors of one dtype.

    Args:
        shapes: Name → shape, in the order in which the data comes.
        dtype: float32, bfloat16, float16 or uint8.
        pieces: The data of all tensors one after the other, cut anywhere; each piece contiguous.
        metadata: Texts for the header.

    Raises:
        ValueError: the pieces have more or fewer elements than the shapes.
        OSError: the file can't be written.
    """
    header = _header(shapes, dtype, metadata or {})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for piece in pieces:
            file.write(piece.to(dtype).reshape(-1).view(torch.uint8).numpy().data)
        written = file.tell() - 8 - len(header)
    expected = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    if written != expected:
        raise ValueError(f"{path}: {written} bytes of tensors written, {expected} announced")


def _header(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, metadata: Mapping[str, str]
) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _HEADER_ALIGNMENT)
