"""Rotary embeddings whose frequencies depend on how long a text is.

transformers looks at the longest position of a call, which here is anybody's: a row's angles would
depend on its company. `longrope` (Phi 3 and 4) has two sets of frequencies, for texts up to the
trained length and for longer ones; which of them is used is decided once, when the model is loaded,
by the longest sequence that the server is asked to serve. `dynamic` has as many as there are
lengths, and is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from server.errors import UnsupportedModelError

_TRAINED = "original_max_position_embeddings"


def check_rope(hf: PreTrainedConfig) -> None:
    """Raises UnsupportedModelError for frequencies that change with every length."""
    kinds = [str(rope.get("rope_type")) for rope in _ropes(hf)]
    if "dynamic" in kinds:
        raise UnsupportedModelError(
            f"{hf.model_type}: transformers' dynamic rope depends on the longest text of a batch; "
            "models of native code have it by position"
        )


def longest(hf: PreTrainedConfig, max_position: int, wanted: int | None) -> int:
    """Most tokens of a sequence: those that the short frequencies of longrope are for, unless more
    are wanted."""
    trained = _trained(hf)
    return max_position if trained is None or (wanted or 0) > trained else trained


def fix_frequencies(decoder: torch.nn.Module, hf: PreTrainedConfig, max_position: int) -> None:
    """Lets longrope's modules keep one set of frequencies, as `longest` decided."""
    trained = _trained(hf)
    if trained is None:
        return
    for module in decoder.modules():
        if getattr(module, "rope_type", None) != "longrope":
            continue
        rotary: Any = module
        if max_position > trained:
            device = rotary.inv_freq.device
            make = ROPE_INIT_FUNCTIONS["longrope"]
            rotary.inv_freq.copy_(make(hf, device, seq_len=trained + 1)[0])
        rotary.rope_type = "default"  # those whose frequencies transformers leaves alone


def _trained(hf: PreTrainedConfig) -> int | None:
    """The trained length of a longrope; None for models that have none."""
    ropes = [rope for rope in _ropes(hf) if rope.get("rope_type") == "longrope"]
    return int(ropes[0][_TRAINED]) if ropes else None


def _ropes(hf: PreTrainedConfig) -> Iterator[Mapping[str, Any]]:
    """The rotary settings, of each type of layers where they differ."""
    found: Any = getattr(hf, "rope_parameters", None) or {}
    if "rope_type" in found:
        yield found
    yield from (rope for rope in found.values() if isinstance(rope, Mapping))
