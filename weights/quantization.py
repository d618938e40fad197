"""Chooses the form in which a model's linear weights are kept."""

from pathlib import Path

import torch

from server.config import QuantizationChoice
from server.errors import ConfigError
from server.kernels.cpu.library import native_library
from server.kernels.quantized import GROUP, QuantizedKind
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.quantization import Quantization
from weights.blocks import read_blocks

_KINDS: dict[QuantizationChoice, QuantizedKind] = {"int8": "q8_0", "int4": "q4_1"}


def choose_quantization(
    wanted: QuantizationChoice, folder: Path, config: ModelConfig, placement: Placement
) -> Quantization | None:
    """None keeps the weights in floats; otherwise those that the checkpoint has in blocks stay in
    these, and the others are rounded.

    `auto` takes stored blocks where native kernels multiply them; weights that are stored otherwise
    (K-quants above all) go to 8 bits then, which loses least.

    Raises:
        ConfigError: the wish can't be fulfilled for this model, precision or device.
    """
    fits = can_quantize(config)
    placed = placement.dtype is torch.bfloat16 and placement.device.type == "cpu"
    if wanted == "auto":
        takes = fits and config.head_dim % GROUP == 0 and native_library() is not None
        stored = read_blocks(folder) if takes and placed else {}
        return Quantization("q8_0", stored) if stored else None
    if wanted == "none":
        return None
    if not placed:
        name = str(placement.dtype).removeprefix("torch.")
        reason = f"needs bfloat16 on a CPU, this is {name} on {placement.device}"
        raise ConfigError("quantization", wanted, reason)
    if not fits:
        shown = ", ".join(map(str, _widths(config)))
        reason = f"layer widths have to be multiples of {GROUP}, this model's are {shown}"
        raise ConfigError("quantization", wanted, reason)
    return Quantization(_KINDS[wanted], read_blocks(folder))


def can_quantize(config: ModelConfig) -> bool:
    """Whether all linear layers' inputs can be cut into groups."""
    return not any(width % GROUP for width in _widths(config))


def _widths(config: ModelConfig) -> tuple[int, int, int]:
    return config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim


def describe(quantization: Quantization | None, dtype: torch.dtype) -> str:
    """Such as `bfloat16`, or `q4_1 and q8_0 weights in bfloat16`."""
    name = str(dtype).removeprefix("torch.")
    if quantization is None:
        return name
    kinds = {quantization.kind, *(weight.kind for weight in quantization.stored.values())}
    return f"{' and '.join(sorted(kinds))} weights in {name}"
