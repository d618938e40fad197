"""State of a training run on disk. A kill costs what was done since the last one.

checkpoint.pt    the last state
trunk.pt         the state before the learning rate fell, from which a run that gets more time
                 goes on
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from server.errors import CheckpointError
from weights.files import replace_durably
from weights.train.fit.averaging import WeightAverage
from weights.train.fit.draft import TrainableDraft

FILE = "checkpoint.pt"
TRUNK = "trunk.pt"


@dataclass(slots=True)
class RunState:
    """How far a run is. With the seed it decides all that follows: the order of the text and the
    delays are drawn anew for each epoch and step, so that no generator's state is kept."""

    precision: str = "float32"
    """Precision of matrix products, as picked at the start."""
    vocabulary: list[int] = field(default_factory=list[int])
    """The ids that the draft can propose anywhere, ascending."""
    text: str = ""
    """Digest of the samples learnt from."""
    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    batch: int = 0
    """Steps of the epoch done."""
    is_warm: bool = False
    """Whether the learning rate has risen to its highest."""
    has_decayed: bool = False
    """Whether the learning rate has begun to fall."""
    tokens: int = 0
    """Tokens trained on, prompts included."""
    seconds: float = 0.0
    """Seconds spent training."""
    look_seconds: float = 0.0
    """Seconds for a look at held-out text and for writing the draft, as measured at the start."""
    curve: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """See `figures.py`."""


class Learnt(NamedTuple):
    """All that a step changes."""

    draft: TrainableDraft
    optimizer: torch.optim.Optimizer
    average: WeightAverage[TrainableDraft]


def save_checkpoint(path: Path, state: RunState, identity: dict[str, Any], learnt: Learnt) -> None:
    """All or nothing.

    Args:
        identity: what has to be the same for the run to go on.
    """
    partial = path.with_name(f"{path.name}.partial")
    parts = {name: part.state_dict() for name, part in learnt._asdict().items()}
    torch.save({"identity": identity, "state": asdict(state), **parts}, partial)
    replace_durably(partial, path)


def load_checkpoint(path: Path, identity: dict[str, Any], learnt: Learnt) -> RunState | None:
    """Restores a run; None if there is no such file.

    Raises:
        CheckpointError: the file is broken, or of a run with other settings; names them.
    """
    content = _read(path, identity)
    if content is None:
        return None
    for name, part in learnt._asdict().items():
        part.load_state_dict(content[name])
    return RunState(**content["state"])


def check_checkpoint(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Refuses what `load_checkpoint` would refuse; returns all that has to be the same for the run
    to go on, nothing where there is no run."""
    content = _read(folder / FILE, identity)
    return {} if content is None else content["identity"]


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever pickle and zip raise
        raise CheckpointError(path, f"can't be read: {error}") from None
    held = content["identity"]
    differing = [name for name, value in identity.items() if held.get(name) != value]
    if differing:
        shown = "; ".join(f"{name} {held.get(name)!r} -> {identity[name]!r}" for name in differing)
        raise CheckpointError(path, f"is of a run with other settings: {shown}")
    return content
