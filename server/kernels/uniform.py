"""Counter-based random numbers: one uniform per (seed, position), the same wherever and in
whatever batch the token is drawn. This is what makes a seeded request reproducible."""

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def uniforms(
    seeds: list[int], positions: list[int], device: torch.device | None = None
) -> torch.Tensor:
    """[len(seeds)] float64, `uniform` of each (seed, position)."""
    values = [uniform(seed, position) for seed, position in zip(seeds, positions, strict=True)]
    return torch.tensor(values, dtype=torch.float64, device=device)


def uniform(seed: int, position: int) -> float:
    """In [0, 1), a function of the seed's lowest 64 bits and the position alone.

    SplitMix64 (Steele, Lea, Flood 2014) jumped to the position; the seed is mixed first, so that
    neighbouring seeds don't give shifted copies of one stream.
    """
    return (splitmix64(splitmix64(seed & _MASK) + position * _GOLDEN) >> 11) * 2.0**-53


def signed(seed: int) -> int:
    """The int64 with a seed's lowest 64 bits; only these matter."""
    return ((seed & _MASK) ^ (1 << 63)) - (1 << 63)


def splitmix64(state: int) -> int:
    """The 64-bit output that SplitMix64 gives in this state."""
    state = (state + _GOLDEN) & _MASK
    state = ((state ^ (state >> 30)) * _MIX_1) & _MASK
    state = ((state ^ (state >> 27)) * _MIX_2) & _MASK
    return state ^ (state >> 31)
