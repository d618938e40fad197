"""Intervals and a test by resampling prompts: nothing is assumed about distributions.

Every figure here is a ratio of sums over prompts (seconds over seconds, tokens over steps); over
several data sets, the mean of the sets' ratios. Seeds are fixed: the same data give the same
figures.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[float, float]
"""(numerator, denominator) of one prompt."""

_RESAMPLES = 5000
_FLIPS = 9999


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float | None
    """None, as `high`, where a data set has a single prompt: nothing is known of its spread."""
    high: float | None


def ratio(groups: Sequence[Sequence[Pair]]) -> Estimate | None:
    """Mean over data sets of (sum of numerators / sum of denominators), with a percentile
    bootstrap interval; prompts are drawn with replacement within each set, numerator and
    denominator together.

    Args:
        groups: the prompts' pairs, by data set. A set whose denominators are all 0 is left out.

    Returns:
        None where no set is left.
    """
    usable = [np.asarray(group, dtype=np.float64) for group in groups if _is_usable(group)]
    if not usable:
        return None
    value = float(np.mean([pairs[:, 0].sum() / pairs[:, 1].sum() for pairs in usable]))
    if min(map(len, usable)) < 2:
        return Estimate(value, None, None)
    resampled = np.mean([_resampled(pairs, index) for index, pairs in enumerate(usable)], axis=0)
    # A resample may miss every prompt that has a denominator.
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def sign_flip_test(differences: Sequence[float]) -> float | None:
    """Two-sided paired permutation test of "the differences are symmetric around 0".

    All sign patterns are tried where they are at most 10 000, else 9 999 random ones and the
    observed one.

    Args:
        differences: one per prompt.

    Returns:
        The p-value; None without data.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return None
    signs = _signs(len(values))
    # Rounding must not make the observed pattern, or its mirror image, less extreme than itself.
    threshold = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    return float(np.mean(np.abs(signs @ values) >= threshold))


def _is_usable(group: Sequence[Pair]) -> bool:
    return sum(denominator for _, denominator in group) > 0


def _resampled(pairs: Any, stream: int) -> Any:
    """[_RESAMPLES] ratios. pairs: [prompts, 2]"""
    weights = _weights(len(pairs), stream)
    totals = weights @ pairs
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = totals[:, 0] / totals[:, 1]
    return np.where(totals[:, 1] > 0, ratios, np.nan)


@lru_cache(maxsize=8)
def _weights(count: int, stream: int) -> Any:
    """[_RESAMPLES, count]: how often each prompt was drawn. Kept, because one run asks for hundreds
    of figures over the same prompts; each data set has a stream of its own."""
    generator = np.random.default_rng((7, stream))
    shares = np.full(count, 1 / count)
    return generator.multinomial(count, shares, size=_RESAMPLES).astype(np.float64)


def _signs(count: int) -> Any:
    """[patterns, count] of ±1, the observed one (all +1) among them."""
    if 2**count <= _FLIPS + 1:
        patterns = np.arange(2**count)[:, None] >> np.arange(count)
        return 1.0 - 2.0 * (patterns & 1)
    drawn = np.random.default_rng(7).integers(0, 2, size=(_FLIPS, count))
    return np.concatenate((np.ones((1, count)), 1.0 - 2.0 * drawn))
