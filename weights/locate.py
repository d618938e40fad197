"""Turns what the user named into a folder in Hugging Face layout."""

from collections.abc import Callable
from pathlib import Path

import torch

from server.config import DEFAULT_MODEL
from weights.checkpoint import weight_files
from weights.conversion_cache import converted_gguf
from weights.default import default_gguf
from weights.hub import download
from weights.model_names import check_folder, check_model_name


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
    check_model_name(model)
    cache_dir = cache_dir.expanduser()
    if model == DEFAULT_MODEL:
        return converted_gguf(default_gguf(), cache_dir, dtype, report)
    path = Path(model).expanduser()
    if path.is_dir():
        return _checked_folder(path)
    if path.suffix.lower() == ".gguf":
        return converted_gguf(path, cache_dir, dtype, report)
    return _checked_folder(download(model, report))


def _checked_folder(folder: Path) -> Path:
    check_folder(folder)
    weight_files(folder)
    return folder
