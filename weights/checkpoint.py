"""Reads a folder in Hugging Face layout: `config.json` and safetensors, one file or sharded; what a
converted GGUF file keeps in blocks (`blocks.py`) is read beside them.

Knows tensor names and shapes, not models: the model offers its slots, this fills them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from server.errors import CheckpointError
from server.kernels.quantized import QuantizedWeight
from server.models.slices import Slices
from weights.blocks import fill_from_blocks, read_blocks

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def checkpoint_identity(folder: Path) -> str:
    """Name, sizes and times of the weight files: cheap, and other for other weights."""
    files = sorted(folder.glob("*.safetensors"))
    return "|".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`, with `eos_token_id` as a list that also has generation_config.json's ids.

    Instruct models end their turns with a token that is often named in the latter only.

    Raises:
        CheckpointError: config.json is missing, or one of the two is not a JSON object.
    """
    config = read_json(folder / "config.json")
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else {}
    ids = [*_as_list(generation.get("eos_token_id")), *_as_list(config.get("eos_token_id"))]
    return config | {"eos_token_id": list(dict.fromkeys(ids)) or None}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing, unreadable, or something else than a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise CheckpointError(path, f"broken JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(path, f"expected a JSON object, found {type(value).__name__}")
    return cast(dict[str, Any], value)


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name → file that holds it.

    Raises:
        CheckpointError: no safetensors, a broken index, or a shard that is missing or unreadable.
    """
    if (folder / INDEX_FILE).exists():
        return _indexed_files(folder)
    path = folder / SINGLE_FILE
    if path.exists():
        return dict.fromkeys(_tensor_names(path), path)
    raise CheckpointError(folder, _why_no_safetensors(folder))


def load_weights(
    folder: Path,
    slots: Mapping[str, torch.Tensor],
    ignorable: Callable[[str], bool],
    slices: Slices | None = None,
) -> None:
    """Copies every tensor of the checkpoint into its slot, converting to the slot's dtype.

    Args:
        slots: Hugging Face tensor name → destination, usually a view into a larger parameter. One
            on torch's meta device is not filled: its weight is kept in blocks.
        ignorable: True for names that may be in the checkpoint without having a slot.
        slices: what of a tensor its slot takes, where it is not all; the rest is not read.

    Raises:
        CheckpointError: tensors are missing or left over, a shape or type is wrong, or a file is
            missing, truncated or corrupt. After it, some slots may already be filled.
    """
    files, blocks = weight_files(folder), read_blocks(folder).weights
    held = files.keys() | blocks.keys()
    CheckpointError.refuse_tensors(folder, "is missing", (n for n in slots if n not in held))
    leftover = (n for n in (*files, *blocks) if n not in slots and not ignorable(n))
    CheckpointError.refuse_tensors(folder, "has left-over", leftover)
    wanted = {name: slot for name, slot in slots.items() if not slot.is_meta}
    for path in dict.fromkeys(files[name] for name in wanted if name in files):
        here = {name: slot for name, slot in wanted.items() if files.get(name) == path}
        _load_file(path, here, slices or {})
    _load_blocks(folder, blocks, {n: s for n, s in wanted.items() if n not in files}, slices or {})


def _load_blocks(
    folder: Path,
    blocks: Mapping[str, QuantizedWeight],
    slots: Mapping[str, torch.Tensor],
    slices: Slices,
) -> None:
    for name, slot in slots.items():
        part, shape = slices.get(name), torch.Size(blocks[name].shape)
        _check_shape(folder, name, shape, part.whole_shape(slot.shape) if part else slot.shape)
    whole = {name: (blocks[name], slot) for name, slot in slots.items() if name not in slices}
    fill_from_blocks(whole)
    for name in slots.keys() & slices.keys():
        slots[name].copy_(slices[name].of(blocks[name].dequantize()))


@torch.no_grad()  # slots are views of parameters, which may want gradients
def _load_file(path: Path, slots: Mapping[str, torch.Tensor], slices: Slices) -> None:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name, slot in slots.items():
                tensor: torch.Tensor = file.get_tensor(name)
                part = slices.get(name)
                _check_tensor(
                    path, name, tensor, part.whole_shape(slot.shape) if part else slot.shape
                )
                # The file is mapped: of a slice, its own pages are read and no others.
                slot.copy_(part.of(tensor) if part else tensor)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, _first_line(error)) from None


def _check_tensor(path: Path, name: str, tensor: torch.Tensor, shape: torch.Size) -> None:
    _check_shape(path, name, tensor.shape, shape)
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(path, f"tensor {name} has type {tensor.dtype}, expected floats")


def _check_shape(path: Path, name: str, stored: torch.Size, expected: torch.Size) -> None:
    if stored != expected:
        shapes = f"has shape {list(stored)}, the model needs {list(expected)}"
        raise CheckpointError(path, f"tensor {name} {shapes}")


def _indexed_files(folder: Path) -> dict[str, Path]:
    index = folder / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(index, "has no weight_map")
    files = {str(name): str(file) for name, file in weight_map.items()}
    for shard in dict.fromkeys(files.values()):
        if Path(shard).name != shard:
            raise CheckpointError(index, f"names {shard!r}, which is not a plain file name")
        path = folder / shard
        if not path.exists():
            raise CheckpointError(path, f"shard named in {INDEX_FILE} is absent")
        held = set(_tensor_names(path))
        absent = (name for name, file in files.items() if file == shard and name not in held)
        CheckpointError.refuse_tensors(path, f"lacks what {INDEX_FILE} promises:", absent)
    return {name: folder / shard for name, shard in files.items()}


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, _first_line(error)) from None


def _why_no_safetensors(folder: Path) -> str:
    if next(folder.glob("pytorch_model*.bin"), None):
        return "holds pytorch_model.bin only; safetensors is needed (convert with save_pretrained)"
    if next(folder.glob("model-*-of-*.safetensors"), None):
        return f"holds shards but no {INDEX_FILE}"
    return f"holds neither {SINGLE_FILE} nor {INDEX_FILE}"


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _first_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason.splitlines()[0] if reason else type(error).__name__
