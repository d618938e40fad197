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
    """None keeps the weights as they are.

    Raises:
        ConfigError: the wish can't be fulfilled for this model.
    """
    stored = {} if wanted == "none" else read_blocks(folder)
    widths = (config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim)
    fits = not any(width % GROUP for width in widths)
    if wanted == "auto":
        has_kernels = placement.dtype is torch.bfloat16 and placement.device.type == "cpu"
        if stored and fits and has_kernels and native_library() is not None:
            return Quantization("q8_0", stored)
        return None
    if wanted == "none":
        return None
    if not fits:
        shown = ", ".join(map(str, widths))
        reason = f"layer widths have to be multiples of {GROUP}, this model's are {shown}"
        raise ConfigError("quantization", wanted, reason)
    kind = _KINDS[wanted]
    return Quantization(kind, {n: w for n, w in stored.items() if w.kind == kind})


def describe(quantization: Quantization | None, dtype: torch.dtype) -> str:
    """Such as `bfloat16`, or `q4_1 and q8_0 weights in bfloat16`."""
    name = str(dtype).removeprefix("torch.")
    if quantization is None:
        return name
    kinds = {quantization.kind, *(weight.kind for weight in quantization.stored.values())}
    return f"{' and '.join(sorted(kinds))} weights in {name}"
