"""Bootstrap and sign-flip test on data with known answers. Seeds are fixed: no false alarms."""

import random

import pytest

from bench.paper.report.resampling import ratio, sign_flip_test


def test_a_ratio_is_of_sums_not_a_mean_of_ratios() -> None:
    found = ratio([[(1, 1), (1, 3)]])
    assert found is not None
    assert found.value == pytest.approx(0.5)


def test_a_constant_ratio_has_no_width() -> None:
    """Numerator and denominator are drawn together."""
    found = ratio([[(2.0 * i, 1.0 * i) for i in range(1, 30)]])
    assert found is not None
    assert found == pytest.approx((2, 2, 2))


def test_the_interval_of_coin_throws() -> None:
    """200 throws, half of them heads: 0.5 ± 1.96 x sqrt(0.25 / 200) = 0.431 … 0.569."""
    found = ratio([[(i % 2, 1) for i in range(200)]])
    assert found is not None
    assert found == pytest.approx((0.5, 0.431, 0.569), abs=0.01)


def test_several_sets_count_alike_whatever_their_sizes() -> None:
    """Mean of 0.5 (200 prompts) and 1 (2 prompts); all spread is the first set's, halved."""
    found = ratio([[(i % 2, 1) for i in range(200)], [(1, 1), (1, 1)]])
    assert found is not None
    assert found == pytest.approx((0.75, 0.7155, 0.7845), abs=0.005)


def test_sets_are_resampled_independently() -> None:
    """Two equal sets of 200: the standard error shrinks by sqrt(2), ± 0.049."""
    throws = [(i % 2, 1) for i in range(200)]
    found = ratio([throws, throws])
    assert found is not None
    assert found == pytest.approx((0.5, 0.451, 0.549), abs=0.01)


def test_nothing_to_divide_by() -> None:
    assert ratio([]) is None
    assert ratio([[]]) is None
    assert ratio([[(0, 0), (0, 0)]]) is None
    found = ratio([[(0, 0)], [(1, 2), (1, 2)]])
    assert found is not None
    assert found.value == 0.5


def test_a_rare_denominator() -> None:
    """Half of the resamples or so miss the only prompt that counts."""
    assert ratio([[(1, 2), (0, 0)]]) == pytest.approx((0.5, 0.5, 0.5))


def test_a_single_prompt_has_no_interval() -> None:
    assert ratio([[(1, 2)]]) == (0.5, None, None)


def test_the_same_data_give_the_same_interval() -> None:
    data = [[(random.Random(i).random(), 1.0) for i in range(20)]]
    assert ratio(data) == ratio(data)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only all + and all - reach a sum of 6
        ([1.0, 2.0, -3.0], 1.0),  # the sum is 0: every pattern reaches it
        ([1.0, 1.0, 1.0, 1.0, -1.0], 12 / 32),  # sums of at least 3: one minus or none, mirrored
        ([0.1] * 10, 2 / 1024),  # rounding must not matter
        ([0.0, 0.0], 1.0),
        ([5.0], 1.0),
    ],
)
def test_sign_flips_counted_by_hand(differences: list[float], expected: float) -> None:
    assert sign_flip_test(differences) == pytest.approx(expected)


def test_sign_flips_of_many_prompts() -> None:
    generator = random.Random(3)
    noise = [generator.gauss(0, 1) for _ in range(100)]
    nothing = sign_flip_test([value - sum(noise) / 100 for value in noise])
    assert nothing is not None
    assert nothing > 0.9  # the mean is exactly 0
    assert sign_flip_test([value + 1 for value in noise]) == pytest.approx(1e-4)
    # A mean of two standard errors: p = 0.0455 in the normal limit.
    scale = (sum(value**2 for value in noise) / 100) ** 0.5
    centred = [value - sum(noise) / 100 for value in noise]
    shifted = sign_flip_test([value + 0.2 * scale for value in centred])
    assert shifted == pytest.approx(0.0455, abs=0.01)


def test_no_differences() -> None:
    assert sign_flip_test([]) is None
