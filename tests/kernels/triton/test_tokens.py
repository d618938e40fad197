"""The draft's candidates and the drawing of tokens: against the reference, exact ids."""

import pytest
import torch

from server.kernels import reference
from server.kernels.triton import candidates, sampling
from server.kernels.uniform import signed
from tests.kernels.triton.device import DEVICE, randn

VOCABULARIES = [8, 61, 2048, 2049, 9000]
SEEDS = [0, 1, -1, 2**63 - 1, signed(2**64 - 5), 12345]


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_candidates(vocab: int) -> None:
    logits = randn(5, vocab) * 3
    ids, confidences = candidates.top_candidates(logits, 8)
    wanted, expected = reference.top_candidates(logits, 8)
    assert torch.equal(ids, wanted)
    torch.testing.assert_close(confidences, expected)


def test_equal_candidates_come_by_id() -> None:
    logits = torch.zeros(2, 5000, device=DEVICE)
    logits[1, [4999, 17, 2048]] = 1.0
    ids, _ = candidates.top_candidates(logits, 8)
    assert ids.tolist() == [list(range(8)), [17, 2048, 4999, 0, 1, 2, 3, 4]]


def test_candidates_with_nothing_else() -> None:
    """-inf everywhere but in two places, in other chunks."""
    logits = torch.full((1, 5000), float("-inf"), device=DEVICE)
    logits[0, 3000], logits[0, 10] = 1.0, 0.0
    ids, confidences = candidates.top_candidates(logits, 2)
    assert ids.tolist() == [[3000, 10]]
    torch.testing.assert_close(confidences.sum().cpu(), torch.tensor(1.0))


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_argmax(vocab: int) -> None:
    logits = randn(7, vocab)
    logits[3] = 0.5  # of equals the first
    logits[4, [vocab - 1, vocab // 2]] = 9.0
    assert sampling.argmax(logits).tolist() == logits.argmax(dim=-1).tolist()
    assert sampling.argmax(logits)[3] == 0
    assert sampling.argmax(logits)[4] == vocab // 2


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_draws_are_the_references(vocab: int) -> None:
    """The same uniform meets the same intervals; 60 draws at 1e-7 of rounding differ by chance less
    than once in 10^5."""
    seeds = torch.tensor(SEEDS * 10, device=DEVICE)
    positions = torch.arange(60, device=DEVICE) * 1000
    logits = randn(60, vocab) * 2
    temperatures = torch.tensor([0.3, 1.0, 2.5], device=DEVICE).repeat(20)
    keep = randn(60, vocab, seed=3) > 0
    keep[:, 5] = True
    for kept in (None, keep):
        found = sampling.draw(logits, temperatures, kept, seeds, positions)
        wanted = reference.draw(logits, temperatures, kept, seeds, positions)
        assert found.tolist() == wanted.tolist()


def test_draws_follow_the_distribution() -> None:
    """500 draws from four tokens: a chi-square of 2 degrees is above 18.4 once in 10^4."""
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    logits = probs.log().to(DEVICE).expand(500, 4)
    ones = torch.ones(500, device=DEVICE)
    seeds = torch.full((500,), 77, device=DEVICE)
    drawn = sampling.draw(logits, ones, None, seeds, torch.arange(500, device=DEVICE))
    counts = torch.bincount(drawn.cpu(), minlength=4)
    assert counts[1] == 0
    expected = probs[probs > 0] * 500
    assert float(((counts[probs > 0] - expected) ** 2 / expected).sum()) < 18.4


def test_only_one_token_left() -> None:
    keep = torch.zeros(3, 5000, dtype=torch.bool, device=DEVICE)
    keep[0, 0] = keep[1, 4999] = keep[2, 2048] = True
    seeds, positions = (
        torch.tensor([1, 2, 3], device=DEVICE),
        torch.tensor([4, 5, 6], device=DEVICE),
    )
    temperatures = torch.ones(3, device=DEVICE)
    drawn = sampling.draw(randn(3, 5000), temperatures, keep, seeds, positions)
    assert drawn.tolist() == [0, 4999, 2048]
