"""Turns what the user named into a folder in Hugging Face layout."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from server.config import DEFAULT_MODEL
from server.errors import CheckpointError
from weights.checkpoint import weight_files
from weights.conversion_cache import converted_gguf
from weights.default import default_gguf
from weights.hub import download

ACCEPTED = (
    f"{DEFAULT_MODEL!r} (the default), a folder in Hugging Face layout, a .gguf file, "
    "or a hub id such as 'org/name'"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate_model(
    model: str, cache_dir: Path, dtype: torch.dtype, report: Callable[[str], None]
) -> Path:
    """Folder with config.json, model*.safetensors and the tokenizer's files.

    Args:
        model: The default model's name, a local folder, a .gguf file, or a hub id.
        cache_dir: Where converted models are kept; `~` is expanded.
        dtype: Precision to which a GGUF file is converted; other checkpoints stay as they are.
        report: Gets lines for a person about work that takes long.

    Raises:
        CheckpointError: nothing of that name, or it can't be read.
        UnsupportedModelError: a GGUF file asks for something that is not implemented.
    """
    cache_dir = cache_dir.expanduser()
    if model == DEFAULT_MODEL:
        return converted_gguf(default_gguf(), cache_dir, dtype, report)
    path = Path(model).expanduser()
    if model and path.is_dir():  # Path("") would be the current folder
        return _checked_folder(path)
    if path.suffix.lower() == ".gguf":
        return converted_gguf(path, cache_dir, dtype, report)
    if path.is_file():
        raise CheckpointError(model, f"is a file, but not a .gguf; accepted: {ACCEPTED}")
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(model, f"no such model; accepted: {ACCEPTED}")
    return _checked_folder(download(model, report))


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").exists():
        found = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"; to use a GGUF file, name it: {folder / found[0]}" if found else ""
        raise CheckpointError(folder, f"has no config.json{hint}")
    weight_files(folder)
    return folder
