"""Counter-based uniforms: pure functions of (seed, position), and uniform."""

import torch

from server.kernels.uniform import splitmix64, uniforms


def test_a_number_depends_on_its_seed_and_position_alone() -> None:
    together = uniforms([1, 2, 1], [5, 5, 6])
    alone = torch.cat([uniforms([s], [p]) for s, p in ((1, 5), (2, 5), (1, 6))])
    assert torch.equal(together, alone)
    assert len(set(together.tolist())) == 3


def test_known_values() -> None:
    """SplitMix64's published sequence from state 0: the generator can't change unnoticed, and old
    seeds keep their meaning."""
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert uniforms([0], [0]).item() == (splitmix64(0xE220A8397B1DCDAF) >> 11) * 2.0**-53


def test_negative_and_large_seeds_are_distinct() -> None:
    seeds = [-1, 0, 1, 2**63 - 1, -(2**63)]
    assert len(set(uniforms(seeds, [0] * len(seeds)).tolist())) == len(seeds)


def test_uniform_over_positions_and_over_seeds() -> None:
    """Chi-square over 100 bins, 100 000 numbers each. A fair generator exceeds 180 with
    probability 1.2e-6; the inputs are fixed, so the test either always passes or never."""
    count = 100_000
    for numbers in (
        uniforms([42] * count, list(range(count))),
        uniforms(list(range(count)), [7] * count),
    ):
        bins = torch.histc(numbers, bins=100, min=0, max=1)
        assert ((bins - 1000) ** 2 / 1000).sum() < 180
        assert numbers.max() < 1
