"""Rotary embedding with the scaling types of Hugging Face configs.

Frequencies depend on the position alone, never on what else is in the batch, so that a token's
keys are the same however its prompt was chunked. That matters for `dynamic`, see there.
"""

import math

import torch

from server.kernels.types import RotaryAngles, RotaryGrowth
from server.models.config import RopeConfig


class RotaryEmbedding:
    """Cosines and sines for any positions, computed per step (no table of the whole context)."""

    def __init__(self, config: RopeConfig, head_dim: int, device: torch.device) -> None:
        self.config = config
        self.head_dim = head_dim
        self.frequencies, self.scale = _frequencies(config, head_dim)
        self.frequencies = self.frequencies.to(device)

    def __call__(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """positions [rows] -> cos, sin, each [rows, 1, head_dim], its second half equal to the
        first."""
        if self.config.type == "dynamic":
            frequencies = self._dynamic_frequencies(positions)
        else:
            frequencies = self.frequencies
        angles = positions[:, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
        return (angles.cos() * self.scale).to(dtype), (angles.sin() * self.scale).to(dtype)

    def angles(self) -> RotaryAngles:
        """The same for native kernels, which work them out themselves."""
        config, growth = self.config, None
        if config.type == "dynamic":
            growth = RotaryGrowth(config.theta, config.factor, config.original_max_position)
        return RotaryAngles(self.frequencies.float().contiguous(), self.scale, growth)

    def _dynamic_frequencies(self, positions: torch.Tensor) -> torch.Tensor:
        """NTK scaling whose base grows with the context, [rows, head_dim / 2].

        transformers takes the longest position of the forward pass as the context. Here each
        position counts as its own: equal in decoding and for prompts inside the trained context,
        and independent of chunking beyond it.
        """
        config, dim = self.config, self.head_dim
        trained = config.original_max_position
        length = (positions + 1).clamp(min=trained).float()
        growth = config.factor * length / trained - (config.factor - 1)
        base = config.theta * growth ** (dim / (dim - 2))
        exponent = torch.arange(0, dim, 2, device=positions.device).float() / dim
        return 1.0 / base[:, None] ** exponent


def _frequencies(config: RopeConfig, dim: int) -> tuple[torch.Tensor, float]:
    """Inverse frequencies [dim / 2] and the factor on cos and sin."""
    # The same operations as in transformers: one bit of a frequency is 0.006 rad at position 1e5.
    plain = 1.0 / config.theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
    if config.type == "linear":
        return plain / config.factor, 1.0
    if config.type == "llama3":
        return _llama3(plain, config), 1.0
    if config.type == "yarn":
        return _yarn(plain, config, dim), _yarn_scale(config)
    return plain, 1.0


def _llama3(plain: torch.Tensor, config: RopeConfig) -> torch.Tensor:
    """Long wavelengths divided by the factor, short ones kept, a blend between."""
    wavelength = 2 * math.pi / plain
    turns = config.original_max_position / wavelength
    blend = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blend = blend.clamp(0, 1)
    return (1 - blend) * plain / config.factor + blend * plain


def _yarn(plain: torch.Tensor, config: RopeConfig, dim: int) -> torch.Tensor:
    """YaRN (arXiv 2309.00071): interpolates dimensions that turn less than beta_slow times in the
    trained context, keeps those that turn more than beta_fast times, a ramp between."""

    def dimension(turns: float) -> float:
        period = config.original_max_position / (turns * 2 * math.pi)
        return dim * math.log(period) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2).float() - low) / max(high - low, 0.001)
    interpolate = ramp.clamp(0, 1)
    return plain / config.factor * interpolate + plain * (1 - interpolate)


def _yarn_scale(config: RopeConfig) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0

    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return mscale(config.mscale) / mscale(config.mscale_all_dim)
    return mscale(1.0)
