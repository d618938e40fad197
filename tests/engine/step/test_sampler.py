"""The sampler with forced logits: exact tokens, exact penalties, and the right distribution."""

import math
from typing import Any

import pytest
import torch

from server.engine.step.sampler import SamplerRow, sample
from server.engine.types import SamplingParams
from server.kernels.cpu import library

NEG = float("-inf")


def row(
    *, prompt: tuple[int, ...] = (0,), output: tuple[int, ...] = (),
    stop_ids: frozenset[int] = frozenset(), **params: object,
) -> SamplerRow:  # fmt: skip
    given: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0} | params
    sampling = SamplingParams(**given)
    return SamplerRow(sampling, prompt, output, stop_ids)


def greedy(logits: list[float], sampler_row: SamplerRow) -> int:
    return sample(torch.tensor([logits]), [sampler_row]).token_ids[0]


def test_greedy_takes_the_largest() -> None:
    assert greedy([0.0, 3.0, 2.0], row()) == 1


@pytest.mark.parametrize(
    ("penalties", "output", "expected"),
    [
        ({"presence_penalty": 1.5}, (1,), 2),  # 3.0 - 1.5 < 2.0
        ({"presence_penalty": 0.9}, (1, 1, 1), 1),  # once, however often it occurred
        ({"frequency_penalty": 0.4}, (1, 1, 1), 2),  # 3.0 - 3 * 0.4 < 2.0
        ({"frequency_penalty": 0.4}, (1, 1), 1),
        ({"presence_penalty": 1.5}, (), 1),
    ],
)
def test_presence_and_frequency_penalties_count_the_output(
    penalties: dict[str, Any], output: tuple[int, ...], expected: int
) -> None:
    assert greedy([0.0, 3.0, 2.0], row(prompt=(1, 1, 1), output=output, **penalties)) == expected


def test_repetition_penalty_counts_the_prompt_and_treats_signs_apart() -> None:
    assert greedy([0.0, 3.0, 2.0], row(prompt=(1,), repetition_penalty=2.0)) == 2
    assert greedy([-1.0, -3.0, -1.5], row(prompt=(0,), repetition_penalty=2.0)) == 2


def test_logit_bias_forces_and_forbids() -> None:
    assert greedy([0.0, 3.0, 2.0], row(logit_bias={0: 100.0})) == 0
    assert greedy([0.0, 3.0, 2.0], row(logit_bias={1: -100.0})) == 2


def test_stop_ids_are_masked_below_min_tokens_only() -> None:
    stops = frozenset({1})
    assert greedy([0.0, 3.0, 2.0], row(min_tokens=2, output=(2,), stop_ids=stops)) == 2
    assert greedy([0.0, 3.0, 2.0], row(min_tokens=2, output=(2, 2), stop_ids=stops)) == 1


def test_where_only_stop_ids_exist_they_may_be_drawn() -> None:
    every = row(min_tokens=2, stop_ids=frozenset({0, 1, 2}), temperature=1.0)
    assert greedy([0.0, 3.0, 2.0], every) in (0, 1, 2)


@pytest.mark.parametrize("logits", [[0.0, float("inf"), 2.0], [float("-inf")] * 3])
@pytest.mark.parametrize("top_k", [0, 2])
def test_infinity_is_no_token_beyond_the_vocabulary(logits: list[float], top_k: int) -> None:
    with pytest.raises(ValueError, match="infinite logits"):
        sample(torch.tensor([logits]), [row(temperature=1.0, top_k=top_k)])


def test_nan_is_named() -> None:
    with pytest.raises(ValueError, match="NaN"):
        greedy([0.0, float("nan"), 2.0], row(temperature=1.0))


@pytest.mark.parametrize("native", [True, False])
def test_nan_is_named_behind_a_mask(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that is NaN may not be drawn; an infinite one is a number."""
    if not native:
        monkeypatch.setattr(library, "native_library", lambda: None)
    held_back = row(min_tokens=3, stop_ids=frozenset({1}))
    with pytest.raises(ValueError, match="NaN"):
        greedy([0.0, float("nan"), 2.0], held_back)
    assert greedy([0.0, float("inf"), 2.0], held_back) == 2


def test_rows_do_not_touch_each_other_nor_the_logits() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0]] * 3)
    before = logits.clone()
    rows = [row(), row(logit_bias={1: -100.0}), row(temperature=1.0, top_k=1)]
    assert sample(logits, rows).token_ids == [1, 2, 1]
    assert torch.equal(logits, before)


def test_a_seeded_row_draws_the_same_in_any_batch() -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    rows = [row(temperature=1.0, seed=i, output=(1,) * i) for i in range(20)]
    together = sample(logits, rows).token_ids
    assert together == [sample(logits[i : i + 1], [rows[i]]).token_ids[0] for i in range(20)]


def test_draws_follow_the_truncated_distribution() -> None:
    """20 000 positions of one seed, chi-square against the exact probabilities after top_k 4 and
    temperature 0.7. With 3 degrees of freedom a fair sampler exceeds 35 with probability 1.2e-7;
    the seed is fixed, so the test either always passes or never."""
    logits = torch.tensor([1.0, 0.2, NEG, 2.0, -3.0, 1.5, -0.5])
    count = 20_000
    rows = [row(temperature=0.7, top_k=4, seed=i) for i in range(count)]
    drawn = torch.tensor(sample(logits.expand(count, -1), rows).token_ids)
    probs = torch.where(logits >= 0.2, logits / 0.7, NEG).softmax(-1)
    expected = probs * count
    observed = torch.bincount(drawn, minlength=7).float()
    kept = probs > 0
    assert observed[~kept].sum() == 0
    assert (((observed - expected) ** 2 / expected)[kept]).sum() < 35


def test_a_certain_token_is_drawn_whatever_the_uniform() -> None:
    logits = torch.tensor([[NEG, NEG, 0.0]]).expand(500, -1)
    rows = [row(temperature=1.0, seed=i) for i in range(500)]
    assert set(sample(logits, rows).token_ids) == {2}


def test_logprobs_are_the_models_own() -> None:
    """Under temperature, penalties and bias the reported logprobs stay those of the raw logits."""
    rows = [row(logprobs=2, logit_bias={2: 100.0}), row(), row(logprobs=0, temperature=5.0, seed=1)]
    logits = torch.tensor([[0.0, math.log(2.0), math.log(3.0)]] * 3)
    biased, nothing, bare = sample(logits, rows).logprobs
    assert nothing is None
    assert biased is not None
    assert biased.token_id == 2
    assert biased.logprob == pytest.approx(math.log(0.5), abs=1e-6)
    assert [i for i, _ in biased.top] == [2, 1]
    assert biased.top[1][1] == pytest.approx(math.log(1 / 3), abs=1e-6)
    assert bare is not None
    assert bare.top == ()
