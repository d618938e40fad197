"""Metadata under an architecture's prefix (`llama.context_length` …), checked.

Every key is either used, known to change nothing, or refused by name: a setting that is ignored
would make the model answer a little worse without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from server.errors import CheckpointError, UnsupportedModelError
from weights.gguf.file import GGUFFile, shortest
from weights.gguf.names import ROPE_FREQUENCIES

_USED: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "attention.head_count",
            "attention.head_count_kv",
        ),
        (int, list),
    ),
    **dict.fromkeys(
        (
            "attention.key_length",
            "attention.value_length",
            "rope.dimension_count",
            "rope.scaling.original_context_length",
            "vocab_size",
        ),
        (int,),
    ),
    **dict.fromkeys(
        (
            "attention.layer_norm_rms_epsilon",
            "rope.freq_base",
            "rope.scale_linear",
            "rope.scaling.factor",
            "rope.scaling.attn_factor",
            "rope.scaling.yarn_ext_factor",
            "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_beta_fast",
            "rope.scaling.yarn_beta_slow",
        ),
        (int, float),
    ),
    "rope.scaling.type": (str,),
}
"""Settings that are read, with their Python types; some converters list one number a layer."""

_WITHOUT_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}
"""Settings that some converters write although they are off."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A file's settings without the prefix."""

    file: GGUFFile
    architecture: str
    values: Mapping[str, Any]

    @classmethod
    def read(
        cls, file: GGUFFile, architecture: str, own: Mapping[str, tuple[type, ...]]
    ) -> "Settings":
        """Takes over what is known.

        Args:
            own: settings that this architecture alone has, with their Python types.

        Raises:
            CheckpointError: a value of another type.
            UnsupportedModelError: a setting that is not known, by name.
        """
        prefix, used = f"{architecture}.", {**_USED, **own}
        found = {
            key.removeprefix(prefix): shortest(value)
            for key, value in file.metadata.items()
            if key.startswith(prefix)
        }
        for name, value in found.items():
            if name in used:
                if not isinstance(value, used[name]):
                    raise CheckpointError(file.path, f"metadata has {prefix}{name}={value!r}")
            elif name not in _WITHOUT_EFFECT and value not in _NEUTRAL.get(name, ()):
                raise UnsupportedModelError(f"{file.path}: {prefix}{name}={value} is not supported")
        return cls(file, architecture, found)

    def required(self, name: str) -> Any:
        """Raises CheckpointError where it is missing."""
        if name not in self.values:
            raise CheckpointError(self.file.path, f"metadata has no {self.architecture}.{name}")
        return self.values[name]

    def number(self, name: str, default: int | None = None) -> int:
        """A positive whole number; a list with one entry a layer must have them all equal."""
        if name not in self.values and default is not None:
            return default
        value, path = self.required(name), self.file.path
        values: set[Any] = set(value) if isinstance(value, list) else {value}
        if len(values) != 1:
            raise UnsupportedModelError(f"{path}: {name} differs between layers: {value}")
        number = values.pop()
        if not isinstance(number, int) or number <= 0:
            raise CheckpointError(path, f"metadata has {name}={number!r}")
        return number

    def embedding_rows(self) -> int:
        """Size of the vocabulary. Not the metadata's vocab_size: not every converter writes it, and
        padding makes it differ."""
        if "token_embd.weight" not in self.file.tensors:
            raise CheckpointError(self.file.path, "has no tensor token_embd.weight")
        return self.file.tensors["token_embd.weight"].shape[0]

    def rope_factors(self) -> npt.NDArray[np.float32] | None:
        """Llama 3.1's factors, one per frequency."""
        return self.tensor(ROPE_FREQUENCIES)

    def tensor(self, name: str) -> npt.NDArray[np.float32] | None:
        """A setting that is stored as a tensor, [size]; None where it is missing."""
        tensor = self.file.tensors.get(name)
        return None if tensor is None else gguf.quants.dequantize(tensor.data, tensor.type)


def head_dim_of(settings: Settings, num_heads: int, may_be_partial: bool = False) -> int:
    """Width of a head and of its values.

    Args:
        may_be_partial: the rotary embedding need not cover all of it.

    Raises:
        CheckpointError: it is odd or zero.
        UnsupportedModelError: the rotary embedding covers a part, or values are of another width.
    """
    path = settings.file.path
    if "attention.key_length" in settings.values:
        head_dim = settings.number("attention.key_length")
    else:
        head_dim = settings.number("embedding_length") // num_heads
    if head_dim == 0 or head_dim % 2:
        raise CheckpointError(path, f"metadata has heads of {head_dim}; rotary needs pairs")
    rotary = () if may_be_partial else ("rope.dimension_count",)
    for name in ("attention.value_length", *rotary):
        value = settings.values.get(name, head_dim)
        if value != head_dim:
            raise UnsupportedModelError(
                f"{path}: {name}={value} with heads of {head_dim} is not supported"
            )
    return head_dim
