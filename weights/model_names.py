"""What can be said of a model's or a draft's name without loading anything, torch included: a
typing error is answered at once.
"""

import re
from pathlib import Path

from server.config import DEFAULT_MODEL
from server.errors import CheckpointError, ConfigError
from weights.default import default_gguf
from weights.gguf.parts import gguf_in, gguf_name, gguf_parts, is_gguf

ACCEPTED = (
    f"{DEFAULT_MODEL!r} (the default), a folder in Hugging Face layout, a .gguf file, "
    "or a hub id such as 'org/name'"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KINDS_OF_DRAFTS = "auto", "none", "ngram"


def check_model_name(model: str) -> None:
    """Checks a model's name as far as that needs no network.

    Raises:
        CheckpointError: nothing of that name. Of a hub id only the hub knows.
    """
    if model == DEFAULT_MODEL:
        default_gguf()
        return
    path = Path(model).expanduser()
    if gguf_of(path) is not None:
        return
    if model and path.is_dir():  # Path("") would be the current folder
        check_folder(path)
    elif path.is_file():
        raise CheckpointError(model, f"is a file, but not a .gguf; accepted: {ACCEPTED}")
    elif not _HUB_ID.fullmatch(model):
        raise CheckpointError(model, f"no such model; accepted: {ACCEPTED}")


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path names: the file, or the one of a folder without safetensors. Of a
    model in several files, one of them. None for anything else.

    Raises:
        CheckpointError: the file or some of its parts do not exist, or a folder holds several.
    """
    if path.is_dir():
        return None if any(path.glob("*.safetensors")) else gguf_in(path)
    if not is_gguf(path):
        return None
    gguf_parts(path)
    if not path.is_file():
        raise CheckpointError(path, "no such file")
    return path


def model_name(model: str) -> str:
    """What a model is called in answers: a GGUF file's name, also where its folder is named; any
    other folder's name; a hub id as it is."""
    if model == DEFAULT_MODEL:
        return model
    path = Path(model).expanduser()
    file = gguf_of(path) if path.is_dir() else path
    if file is not None and is_gguf(file):
        return gguf_name(file)
    return path.resolve().name if path.exists() else model


def check_folder(folder: Path) -> None:
    """Checks that a folder can be a checkpoint.

    Raises:
        CheckpointError: it has no config.json.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(folder, "has no config.json")


def check_draft_name(draft: str) -> None:
    """Checks a draft's name as far as that needs no network.

    Raises:
        CheckpointError, ConfigError: nothing of that name.
    """
    if draft in _KINDS_OF_DRAFTS:
        return
    path = Path(draft).expanduser()
    if not draft or (not path.exists() and "/" not in draft):
        raise ConfigError("draft", draft, "expected a folder, a model, ngram, none or auto")
    check_model_name(draft)
