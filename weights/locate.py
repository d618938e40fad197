"""Turns what the user named into a folder in Hugging Face layout."""

from pathlib import Path

import torch

from server.config import DEFAULT_MODEL
from server.errors import CheckpointError
from server.report import Report
from weights.checkpoint import weight_files
from weights.default import default_gguf
from weights.gguf.conversion_cache import converted_gguf
from weights.model_names import check_folder, check_model_name, gguf_of

_HUB_FILES = ["*.json", "model*.safetensors", "tokenizer*", "*.jinja", "vocab*", "merges.txt"]
"""No pytorch_model.bin, and none of the `consolidated` or `original` copies some models have."""


def locate_model(
    model: str, cache_dir: Path, dtype: torch.dtype, report: Report, in_floats: bool = False
) -> Path:
    """Folder with config.json, model*.safetensors and the tokenizer's files.

    A GGUF file's blocks stay blocks where kernels multiply them, which only `checkpoint.py` reads.

    Args:
        model: The default model's name, a local folder (which may hold a GGUF
            model), a .gguf file, or a hub id.
        cache_dir: Where converted models are kept; `~` is expanded.
        dtype: Precision to which a GGUF file is converted; other checkpoints stay as they are.
        report: Gets lines for a person about work that takes long.
        in_floats: A GGUF file becomes floats throughout, which anybody can read.

    Raises:
        CheckpointError: nothing of that name, or it can't be read.
        UnsupportedModelError: a GGUF file asks for something that is not implemented.
    """
    check_model_name(model)
    cache_dir = cache_dir.expanduser()
    if model == DEFAULT_MODEL:
        return converted_gguf(default_gguf(), cache_dir, dtype, report, in_floats)
    path = Path(model).expanduser()
    gguf_file = gguf_of(path)
    if gguf_file is not None:
        return converted_gguf(gguf_file, cache_dir, dtype, report, in_floats)
    if path.is_dir():
        return _checked_folder(path)
    return _checked_folder(download(model, report))


def _checked_folder(folder: Path) -> Path:
    check_folder(folder)
    weight_files(folder)
    return folder


def download(model: str, report: Report) -> Path:
    """Downloads a checkpoint from the Hugging Face hub into its usual cache and returns the
    snapshot's folder. What is in the hub's cache already is not fetched again.

    Raises:
        CheckpointError: no such repository, no permission, no network.
    """
    # Imported here: only a hub id needs it, and it takes a while.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    report(f"looking up {model} on the Hugging Face hub")
    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"is no local folder, and the hub says: {lines[0]}"
        raise CheckpointError(model, reason) from None
