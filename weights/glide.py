"""GliDe drafts on disk: loading, saving, converting published ones.

A draft's folder holds `config.json` (`server/models/glide_config.py`) and `model.safetensors`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from server.errors import CheckpointError
from server.kernels.quantized import PartWeight
from server.models.config import ModelConfig
from server.models.glide import GlideModel
from server.models.glide_config import GlideConfig, check_fits, config_dict, glide_config
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from weights.checkpoint import SINGLE_FILE, load_weights, read_json, weight_files
from weights.glide_formats import read_published


def load_glide(
    folder: Path,
    target: ModelConfig,
    placement: Placement,
    target_embedding: torch.Tensor | None,
    target_head: PartWeight | None,
) -> GlideModel:
    """A draft that is ready to run.

    Args:
        target_embedding, target_head: [vocab_size, hidden], or this rank's part of them, for
            drafts that share them.

    Raises:
        CheckpointError: a file is missing or broken, tensors are missing, left over or misshapen.
        UnsupportedModelError: the config is wrong, or the draft does not fit the target.
    """
    return _filled(folder, target, placement).freeze(target_embedding, target_head)


def read_glide(folder: Path, target: ModelConfig) -> dict[str, torch.Tensor]:
    """A draft's own weights in float32, and the table of its tokens where it has one, by their
    names in the checkpoint.

    Raises: as `load_glide`.
    """
    return dict(_filled(folder, target, Placement(torch.device("cpu"), torch.float32)).slots())


def _filled(folder: Path, target: ModelConfig, placement: Placement) -> GlideParameters:
    config = glide_config(read_json(folder / "config.json"))
    parameters = GlideParameters(config, target, placement)
    slots = parameters.slots()
    table = slots.pop(TOKEN_TABLE, None)
    load_weights(
        folder,
        slots,
        lambda name: parameters.ignorable(name) or (table is not None and name == TOKEN_TABLE),
        parameters.slices(),
    )
    if table is not None:
        _load_table(folder, table, target.vocab_size)
    return parameters


def save_glide(folder: Path, config: GlideConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a draft; config.json comes last, so that a folder that has it is complete.

    Args:
        tensors: by the names of `GlideParameters.slots`, each in the precision it is to be kept in.

    Raises:
        CheckpointError: the folder can't be written.
    """
    text = json.dumps(config_dict(config), indent=2) + "\n"
    # A tensor of its own each: safetensors refuses views and shared memory.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        _write_weights(folder / SINGLE_FILE, copies)
        (folder / "config.json").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(folder, f"can't be written: {error}") from None


def _write_weights(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """In a file of its own until it is whole: the older one may be mapped by somebody who loads it.
    Not `save_file`, whose files are for the owner alone, whatever the umask."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(save(tensors, metadata={"format": "pt"}))
    partial.replace(path)


def convert(source: Path, out: Path, target: ModelConfig) -> GlideConfig:
    """Reads a published draft and writes it as one of ours.

    Args:
        source: Folder or single file (.bin, .safetensors) of the paper's authors, with its
            config.json, or of LongSpec.
        out: Folder to be made.
        target: The model that the draft was trained for.

    Raises:
        CheckpointError: the source is unreadable, incomplete or of no known format, or the folder
            holds a checkpoint already.
        UnsupportedModelError: the draft does not fit the target.
    """
    if (out / "config.json").exists():
        raise CheckpointError(out, "holds a checkpoint already")
    config, tensors = read_published(source, target)
    check_fits(config, target)
    _check_complete(source, tensors, config, target)
    save_glide(out, config, tensors)
    return config


def _load_table(folder: Path, table: torch.Tensor, vocab_size: int) -> None:
    path = weight_files(folder).get(TOKEN_TABLE)
    if path is None:
        raise CheckpointError(folder, f"is missing 1 tensor: {TOKEN_TABLE}")
    with safe_open(path, framework="pt", device="cpu") as file:
        stored: torch.Tensor = file.get_tensor(TOKEN_TABLE)
    if stored.dtype is not torch.int64 or stored.shape != table.shape:
        found = f"{stored.dtype} {list(stored.shape)}"
        reason = f"tensor {TOKEN_TABLE} is {found}, the model needs int64 {list(table.shape)}"
        raise CheckpointError(path, reason)
    if int(stored.min()) < 0 or int(stored.max()) >= vocab_size:
        found = f"{int(stored.min())} to {int(stored.max())}"
        reason = f"tensor {TOKEN_TABLE} has ids {found}, the target knows {vocab_size}"
        raise CheckpointError(path, reason)
    if len(stored.unique()) != len(stored):
        raise CheckpointError(path, f"tensor {TOKEN_TABLE} lists a token twice")
    table.copy_(stored)


def _check_complete(
    source: Path, tensors: Mapping[str, torch.Tensor], config: GlideConfig, target: ModelConfig
) -> None:
    """Exactly the draft's tensors, in its shapes."""
    slots = GlideParameters(config, target, Placement(torch.device("meta"), torch.float32)).slots()
    CheckpointError.refuse_tensors(source, "is missing", (n for n in slots if n not in tensors))
    CheckpointError.refuse_tensors(source, "has left-over", (n for n in tensors if n not in slots))
    for name, slot in slots.items():
        stored, expected = list(tensors[name].shape), list(slot.shape)
        if stored != expected:
            reason = f"tensor {name} has shape {stored}, the model needs {expected}"
            raise CheckpointError(source, reason)
        if not tensors[name].is_floating_point():
            raise CheckpointError(source, f"tensor {name} has type {tensors[name].dtype}")
