"""Intervals and a test by resampling prompts: nothing is assumed about distributions.

Every figure here is a function of sums over prompts, mostly a ratio (seconds over seconds, tokens
over steps); over several data sets, the mean of the sets' figures. Seeds are fixed: the same data
give the same figures.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[float, float]
"""(numerator, denominator) of one prompt."""

Statistic = Callable[[Any], Any]
"""Sums over a set's prompts, [..., columns] -> the figure, [...]; not finite for none."""

_RESAMPLES = 5000
_FLIPS = 9999


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float | None
    """None, as `high`, where a data set has a single prompt: nothing is known of its spread."""
    high: float | None


def ratio(groups: Sequence[Sequence[Pair]]) -> Estimate | None:
    """Mean over data sets of (sum of numerators / sum of denominators); see `estimate`."""
    return estimate(groups, lambda totals: totals[..., 0] / totals[..., 1])


def estimate(groups: Sequence[Sequence[Sequence[float]]], statistic: Statistic) -> Estimate | None:
    """Mean over data sets of a figure, with a percentile bootstrap interval; prompts are drawn with
    replacement within each set, all that is known of one together.

    Args:
        groups: the prompts' numbers, by data set. A set without a finite figure is left out.

    Returns:
        None where no set is left.
    """
    usable, values = list[Any](), list[float]()
    for group in groups:
        rows = np.asarray(group, dtype=np.float64)
        value = _apply(statistic, rows.sum(axis=0)) if len(rows) else np.nan
        if np.isfinite(value):
            usable.append(rows)
            values.append(float(value))
    if not usable:
        return None
    mean = float(np.mean(values))
    if min(map(len, usable)) < 2:
        return Estimate(mean, None, None)
    drawn = [_apply(statistic, _weights(len(rows), i) @ rows) for i, rows in enumerate(usable)]
    # A resample may miss every prompt that has a denominator.
    low, high = np.nanquantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return Estimate(mean, float(low), float(high))


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


def _apply(statistic: Statistic, totals: Any) -> Any:
    """totals: [..., columns] -> [...]; NaN where the figure is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = statistic(totals)
    return np.where(np.isfinite(found), found, np.nan)


@lru_cache(maxsize=8)
def _weights(count: int, stream: int) -> Any:
    """[_RESAMPLES, count]: how often each prompt was drawn. Kept, because one run asks for hundreds
    of figures over the same prompts; each data set has a stream of its own."""
    generator = np.random.default_rng((7, stream))
    shares = np.full(count, 1 / count)
    return generator.multinomial(count, shares, size=_RESAMPLES).astype(np.float64)


@lru_cache(maxsize=1)  # all methods of a set have as many prompts
def _signs(count: int) -> Any:
    """[patterns, count] of ±1, the observed one (all +1) among them."""
    if 2**count <= _FLIPS + 1:
        patterns = np.arange(2**count)[:, None] >> np.arange(count)
        return 1.0 - 2.0 * (patterns & 1)
    drawn = np.random.default_rng(7).integers(0, 2, size=(_FLIPS, count))
    return np.concatenate((np.ones((1, count)), 1.0 - 2.0 * drawn))
