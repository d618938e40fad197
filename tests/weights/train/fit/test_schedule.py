"""How far a run is, its learning rate, its order and its delays."""

import math
from pathlib import Path

import torch

from tests.weights.train.tiny import tiny_config
from weights.train.features.store import Shard
from weights.train.fit.batches import EpochOrder, Located, group_padded, micro_batches
from weights.train.fit.precision import pick_precision
from weights.train.fit.run import make_budget
from weights.train.fit.schedule import Budget, learning_rate
from weights.train.fit.trainer import draw_delays
from weights.train.fit.validate import chain_tokens
from weights.train.text.samples import Sample


def located(lengths: list[int]) -> list[Located]:
    samples = [Sample(torch.arange(length).int().numpy(), 1) for length in lengths]
    return [Located(sample, Shard("", ()), 0, 0) for sample in samples]


def lengths_of(groups: list[list[Located]]) -> list[list[int]]:
    return [[at.sample.num_tokens for at in group] for group in groups]


def test_what_comes_first_ends_it() -> None:
    budget = Budget(steps=10, seconds=100.0)
    assert budget.progress(5, 20.0) == 0.5
    assert budget.progress(2, 80.0) == 0.8
    assert budget.progress(10, 0.0) == budget.progress(0, 500.0) == 1
    assert budget.seconds_left(5, 20.0, 2.0) == 10.0
    assert budget.seconds_left(5, 95.0, 2.0) == 5.0


def test_budget_of_a_config(tmp_path: object) -> None:
    config = tiny_config(tmp_path, tmp_path)  # pyright: ignore[reportArgumentType]
    assert make_budget(config, 7) == Budget(21, None)
    for changes, expected in (
        ({"epochs": 0.5}, Budget(4, None)),
        ({"steps": 9}, Budget(9, None)),
        ({"steps": 9, "epochs": 1.0, "minutes": 2.0}, Budget(7, 120.0)),
        ({"minutes": 2.0}, Budget(None, 120.0)),
    ):
        changed = tiny_config(tmp_path, tmp_path, **changes)  # pyright: ignore[reportArgumentType]
        assert make_budget(changed, 7) == expected


def test_the_last_look_is_within_the_minutes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path / "text.jsonl", minutes=1)
    assert make_budget(config, 7, look_seconds=10.0) == Budget(None, 50.0)
    assert make_budget(config, 7, look_seconds=100.0) == Budget(None, 30.0)


def test_learning_rate_rises_stays_and_falls() -> None:
    places = (0.0, 0.05, 0.1, 0.55, 0.8, 0.9, 1.0)
    rates = [learning_rate(progress, 2.0, 0.1, 0.2) for progress in places]
    for rate, expected in zip(rates, (0.02, 1.0, 2.0, 2.0, 2.0, 1.0, 0.02), strict=True):
        assert math.isclose(rate, expected, rel_tol=1e-9)
    assert learning_rate(1.0, 2.0, 0.1, 0.0) == 2.0, "without a decay it stays to the end"


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    samples = located(list(range(5, 45)))
    order = EpochOrder(samples, 100, seed=3)
    epochs = [lengths_of(order.batches(epoch)) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    for epoch in epochs:
        assert sorted(length for batch in epoch for length in batch) == list(range(5, 45))
        assert all(sum(batch) <= 100 for batch in epoch)
    assert lengths_of(EpochOrder(samples, 100, seed=4).batches(0)) != epochs[0]


def test_padding_counts_and_a_long_sample_goes_alone() -> None:
    groups = list(group_padded(located([4, 5, 5, 30, 2, 9]), 15))
    assert lengths_of(groups) == [[4, 5, 5], [30], [2], [9]]
    assert lengths_of(micro_batches(located([9, 4, 8, 3]), 18)) == [[3, 4], [8, 9]]


def test_delays_are_as_in_blocks_of_random_length() -> None:
    """P(d) is the mean over block lengths L of [d <= L] / L. Largest deviation allowed: 6 sigma,
    fewer than one false alarm in 10^7 runs."""
    positions = torch.full((100, 1000), 50)
    delays = draw_delays(positions, 4, torch.Generator().manual_seed(0))
    expected = [sum(1 / n for n in range(d, 5)) / 4 for d in range(1, 5)]
    found = torch.bincount(delays.flatten(), minlength=5)[1:] / delays.numel()
    for share, probability in zip(found.tolist(), expected, strict=True):
        deviation = (probability * (1 - probability) / delays.numel()) ** 0.5
        assert abs(share - probability) < 6 * deviation
    near = draw_delays(torch.ones(10, 10).long(), 4, torch.Generator().manual_seed(0))
    assert near.eq(1).all(), "a row never looks before the text"


def test_tokens_of_a_chain() -> None:
    """Right at delay 1: rows 0, 1; at delay 2: rows 1, 2. The chain from row 0 gets both, that from
    row 1 too, that from row 2 none. The padding row is nobody's."""
    matches = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]]).bool()
    is_row = torch.tensor([[1, 1, 1, 0]]).bool()
    assert chain_tokens(matches, is_row) == (3 + 2 + 2, 3)


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert pick_precision("float32", cpu) is torch.float32
    assert pick_precision("bfloat16", cpu) is torch.bfloat16
    assert pick_precision("auto", cpu) in (torch.float32, torch.bfloat16)
