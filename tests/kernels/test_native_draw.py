"""Tokens drawn natively: of exactly those that are kept, and where the uniform number falls."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.kernels.cpu.linear import NativeLinear
from server.kernels.cpu.rows import draw_tokens
from server.kernels.types import TokenDraw
from tests.kernels.native_models import needs_native

pytestmark = needs_native()
INF, NAN = math.inf, math.nan
LAST_UNIFORM = 1 - 2.0**-53
WIDTHS = (1, 2, 15, 16, 17, 63, 64, 65, 200, 1000)


def drawn_of(logits: Sequence[float] | torch.Tensor, draws: Sequence[TokenDraw]) -> list[int]:
    """Tokens drawn from one row."""
    row = torch.as_tensor(logits, dtype=torch.float32)
    return draw_tokens(row.expand(len(draws), -1).contiguous(), draws)


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p", "kept"),
    [
        (0, 1.0, 0.0, {0, 1, 2, 3, 4}),
        (2, 1.0, 0.0, {1, 3}),
        (4, 1.0, 0.0, {0, 1, 2, 3, 4}),  # the fourth is as probable as the fifth
        (5, 1.0, 0.0, {0, 1, 2, 3, 4}),
        (9, 1.0, 0.0, {0, 1, 2, 3, 4}),
        (2**32 + 1, 1.0, 0.0, {0, 1, 2, 3, 4}),
        (0, 0.4, 0.0, {1}),
        (0, 0.7, 0.0, {1, 3}),
        (0, 0.8, 0.0, {0, 1, 3}),
        (0, 0.9, 0.0, {0, 1, 2, 3, 4}),
        (0, 1e-9, 0.0, {1}),
        (0, 1.0, 0.3, {1, 3}),
        (0, 1.0, 1.0, {1}),
        (0, 0.8, 0.3, {1, 3}),
        (3, 0.9, 0.0, {0, 1, 3}),  # of the mass of three, 7/8
        (3, 0.8, 0.0, {1, 3}),
        (1, 0.1, 0.0, {1}),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
def test_what_is_kept_is_drawn_in_its_share(
    top_k: int, top_p: float, min_p: float, kept: set[int], temperature: float
) -> None:
    """A thousand uniforms at equal distances."""
    probs = np.array([1 / 8, 1 / 2, 1 / 16, 1 / 4, 1 / 16])
    logits = torch.from_numpy(np.log(probs) * temperature)
    uniforms = (np.arange(1000) + 0.5) / 1000
    draws = [TokenDraw(temperature, top_k, top_p, min_p, float(u)) for u in uniforms]
    masses = np.where([i in kept for i in range(5)], probs, 0.0)
    expected = np.searchsorted(masses.cumsum() / masses.sum(), uniforms, side="right")
    assert drawn_of(logits, draws) == expected.tolist()


@settings(max_examples=300, deadline=None)
@given(
    width=st.sampled_from(WIDTHS),
    spread=st.sampled_from([0.1, 1.0, 6.0, 40.0]),
    temperature=st.sampled_from([0.05, 0.2, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 999, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5]),
    uniform=st.one_of(st.sampled_from([0.0, LAST_UNIFORM]), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(0, 2**20),
)
def test_random_rows_follow_the_definition(
    width: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float,
    uniform: float, seed: int,
) -> None:  # fmt: skip
    """Ties are common in the logits, which are whole numbers of quarters; some are -inf."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(width, generator=generator).mul(spread * 4).round() / 4
    logits[torch.rand(width, generator=generator) < 0.1] = -INF
    assume(bool(logits.isfinite().any()))
    draw = TokenDraw(temperature, top_k, top_p, min_p, uniform)
    assert drawn_of(logits, [draw])[0] in admissible(logits, draw)


def admissible(logits: torch.Tensor, draw: TokenDraw) -> list[int]:
    """Tokens that the definition may give within float32's rounding, in double precision. Where
    rounding may decide what top_p or min_p keeps, the example is dropped."""
    scaled = logits.double().numpy() / draw.temperature
    weights = np.exp(scaled - scaled.max())
    best = np.sort(weights)[::-1]
    if 0 < draw.top_k < len(best):
        best = best[: draw.top_k]
    cutoff = best[-1] if 0 < draw.top_k < len(weights) else 0.0
    if draw.top_p < 1:
        before = np.concatenate(([0.0], best.cumsum()[:-1]))
        wanted = draw.top_p * best.sum()
        assume(bool((abs(before - wanted) > 1e-5 * wanted).all()))
        cutoff = best[before < wanted][-1]
    if draw.min_p:
        assume(bool((abs(weights - draw.min_p) > 1e-5).all()))
        cutoff = max(cutoff, draw.min_p)
    kept = np.where(weights >= cutoff * (1 - 1e-5), weights, 0.0)
    ends = kept.cumsum() / kept.sum()
    begins = np.concatenate(([0.0], ends[:-1]))
    near = (begins - 1e-5 <= draw.uniform) & (draw.uniform <= ends + 1e-5) & (kept > 0)
    return np.flatnonzero(near).tolist()


def test_ends_of_the_uniform_are_ends_of_a_vocabulary() -> None:
    """The first and the last token that have any mass, whatever is rounded on the way."""
    logits = torch.randn(49_152, generator=torch.Generator().manual_seed(0)) * 3
    logits[:5] = logits[-7:] = -INF
    draws = [TokenDraw(1.0, 0, 1.0, 0.0, uniform) for uniform in (0.0, LAST_UNIFORM)]
    assert drawn_of(logits, draws) == [5, 49_152 - 8]


@pytest.mark.parametrize("column", [0, 15, 16, 20])
@pytest.mark.parametrize("broken", [NAN, INF])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_row_without_a_distribution_draws_no_token(
    column: int, broken: float, top_k: int
) -> None:
    """And its neighbours draw theirs."""
    logits = torch.zeros(4, 21)
    logits[1, column], logits[2] = broken, -INF
    draws = [TokenDraw(1.0, top_k, 1.0, 0.0, 0.5)] * 4
    assert draw_tokens(logits, draws) == [10, 21, 21, 10]


def test_rows_do_not_depend_on_company_or_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 1000, generator=generator) * 4
    draws = [
        TokenDraw(0.3 + i / 20, i % 3 * 20, 1.0 - i % 4 / 10, i % 5 / 100, i / 30)
        for i in range(30)
    ]
    alone = [draw_tokens(logits[i : i + 1], draws[i : i + 1])[0] for i in range(30)]
    for num_threads in (1, 2, 3):
        # Drawing takes the threads that the last product had.
        NativeLinear(torch.zeros(16, 32), num_threads)(torch.zeros(1, 32))
        for first, last in ((0, 30), (3, 5), (7, 30)):
            assert draw_tokens(logits[first:last], draws[first:last]) == alone[first:last]
