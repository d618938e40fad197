"""Rotary settings of a GGUF file, as Hugging Face's `rope_parameters`.

They come in two shapes: metadata (`rope.scaling.*`: linear, yarn), or, for Llama 3.1 and later, a
tensor of factors per frequency, from which the parameters are found again.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from server.errors import UnsupportedModelError

DEFAULT_THETA = 10_000.0

_LLAMA3_LOW_FREQUENCY = 1.0
_LLAMA3_HIGH_FREQUENCY = 4.0
_LLAMA3_ORIGINAL_CONTEXT = 8192
_LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0)
"""8 is Llama 3.1's and 3.3's, 32 is Llama 3.2's."""


def rope_parameters(
    settings: Mapping[str, Any], head_dim: int, factors: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    """Hugging Face `rope_parameters`.

    Args:
        settings: Metadata under the architecture's prefix: `rope.freq_base`, `rope.scaling.type`.
        head_dim: Width of one attention head.
        factors: The tensor `rope_freqs.weight`, [head_dim / 2], or None.

    Raises:
        UnsupportedModelError: a scaling that is not implemented, or factors that are not Llama 3's.
    """
    theta = float(settings.get("rope.freq_base", DEFAULT_THETA))
    _refuse_other_than_1(settings, "attn_factor")
    scaling = _metadata_scaling(settings)
    if factors is not None and not np.all(factors == 1.0):
        if scaling["rope_type"] != "default":
            raise UnsupportedModelError(
                f"rope scaling {scaling['rope_type']!r} together with rope_freqs is not supported"
            )
        scaling = _llama3_scaling(theta, head_dim, factors)
    return {"rope_theta": theta, **scaling}


def llama3_factors(
    theta: float, head_dim: int, factor: float, original_context: int = _LLAMA3_ORIGINAL_CONTEXT
) -> npt.NDArray[np.float64]:
    """What llama.cpp stores as `rope_freqs.weight`: each frequency is divided by its entry.

    Wavelengths up to original/4 stay (1), those over original/1 are stretched (`factor`), and
    between the two the inverse is interpolated. Returns [head_dim / 2].
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = _LLAMA3_LOW_FREQUENCY, _LLAMA3_HIGH_FREQUENCY
    smooth = np.clip((original_context / wavelengths - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _metadata_scaling(settings: Mapping[str, Any]) -> dict[str, Any]:
    kind = settings.get("rope.scaling.type", "none")
    # Files from before `rope.scaling.type` have `rope.scale_linear` instead.
    factor = float(settings.get("rope.scaling.factor") or settings.get("rope.scale_linear") or 1.0)
    if "rope.scaling.type" not in settings and factor != 1.0:
        kind = "linear"
    if kind == "none" or factor == 1.0:
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedModelError(
            f"rope scaling {kind!r} is not supported in GGUF files; supported: none, linear, yarn"
        )
    _refuse_other_than_1(settings, "yarn_ext_factor", "yarn_attn_factor")
    optional = {
        "original_max_position_embeddings": settings.get("rope.scaling.original_context_length"),
        "beta_fast": settings.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": settings.get("rope.scaling.yarn_beta_slow"),
    }
    present = {key: value for key, value in optional.items() if value is not None}
    return {"rope_type": "yarn", "factor": factor, **present}


def _refuse_other_than_1(settings: Mapping[str, Any], *keys: str) -> None:
    # Each changes the attention scale in a way of its own; 1 is llama.cpp's neutral value.
    for key in keys:
        value = settings.get(f"rope.scaling.{key}", 1.0)
        if value != 1.0:
            raise UnsupportedModelError(
                f"rope.scaling.{key}={value} is not supported; supported: 1"
            )


def _llama3_scaling(
    theta: float, head_dim: int, factors: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Finds the factor whose table this is; the other three parameters never vary in practice."""
    for factor in (float(factors.max()), *_LLAMA3_FACTORS):
        table = llama3_factors(theta, head_dim, factor)
        if table.shape == factors.shape and np.allclose(table, factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LLAMA3_LOW_FREQUENCY,
                "high_freq_factor": _LLAMA3_HIGH_FREQUENCY,
                "original_max_position_embeddings": _LLAMA3_ORIGINAL_CONTEXT,
            }
    raise UnsupportedModelError(
        "rope_freqs.weight does not hold Llama 3 factors; other rotary tables are not supported"
    )
