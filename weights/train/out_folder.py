"""Whose draft an out folder holds: the work folder knows the drafts that were made in it.

The out folder is the user's to move and to give away, and holds nothing but the draft. So the work
folder keeps digests of what was written there: of the latest draft, and of the one before it, which
is still in its place when a kill comes in between.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from server.errors import CheckpointError, ConfigError
from weights.checkpoint import SINGLE_FILE, read_json
from weights.train.fit import checkpoint
from weights.train.work_folder import RUN_FILE, write_json

_DRAFTS = "drafts.json"
_KEPT = 2


def check_out(out: Path, work: Path) -> None:
    """Only a new folder, an empty one, or that of the run to be resumed may be written to.

    Raises:
        ConfigError: it is something else; names it.
    """
    if out.is_file():
        raise ConfigError("out", str(out), "is a file, expected a folder")
    if not out.is_dir():
        return
    if holds_draft(out):
        if not is_own_draft(out, work):
            reason = f"holds another draft than that of the run in {work}; choose another folder"
            raise ConfigError("out", str(out), reason)
    elif next(out.iterdir(), None) is not None and not (work / RUN_FILE).exists():
        raise ConfigError("out", str(out), "is not empty; choose another folder")


def holds_draft(out: Path) -> bool:
    """Whole, or left by a kill."""
    return any((out / name).exists() for name in ("config.json", SINGLE_FILE))


def is_own_draft(out: Path, work: Path) -> bool:
    """Whether the draft in a folder was made by the run whose work this is.

    Raises:
        CheckpointError: the work folder's list of drafts is broken.
    """
    if not (work / _DRAFTS).exists():  # older runs kept no list
        return (work / checkpoint.FILE).exists()
    try:
        return _digest(load_file(out / SINGLE_FILE)) in _known(work)
    except (OSError, SafetensorError):
        return False


def note_draft(work: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Before a draft is written: it is this run's.

    Raises:
        CheckpointError: the work folder can't be written.
    """
    digests = [*_known(work), _digest(tensors)]
    write_json(work / _DRAFTS, {"digests": list(dict.fromkeys(digests))[-_KEPT:]})


def _known(work: Path) -> list[str]:
    path = work / _DRAFTS
    if not path.exists():
        return []
    digests = read_json(path).get("digests")
    if not isinstance(digests, list):
        raise CheckpointError(path, "is no list of drafts")
    return list(map(str, digests))


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = blake2b(digest_size=12)
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
