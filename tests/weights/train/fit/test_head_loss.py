"""Soft labels and the loss against them, beside their definitions."""

import pytest
import torch

from weights.train.features.labels import NOT_KNOWN, Labeller, SoftLabels
from weights.train.fit.head_loss import head_loss

ROWS, HIDDEN, VOCABULARY = 600, 16, 40
"""More rows than a chunk."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_labels(rows: int = ROWS, k: int = 5) -> SoftLabels:
    logits = torch.randn(rows, VOCABULARY, generator=generator()) * 2
    return Labeller(torch.arange(VOCABULARY - 8), VOCABULARY, k)(logits)


def plain_loss(logits: torch.Tensor, labels: SoftLabels) -> torch.Tensor:
    probs = logits.double().softmax(-1)
    known = probs.gather(1, labels.columns)
    losses = -(labels.probs * known.log()).sum(-1) - labels.rest * (1 - known.sum(-1)).log()
    return losses.sum()


def test_loss_and_gradient_equal_autograd() -> None:
    labels = random_labels()
    head = torch.randn(VOCABULARY - 8, HIDDEN, generator=generator())
    x = torch.randn(ROWS, HIDDEN, generator=generator()).requires_grad_()
    other = x.detach().clone().requires_grad_()
    found = head_loss(x, head, labels)
    (found.total / 3).backward()
    logits = other @ head.T
    expected = plain_loss(logits, labels)
    (expected / 3).backward()
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.best, logits.argmax(-1))


def test_a_draft_that_is_certain_stays_finite() -> None:
    """All of the draft's mass is on labelled tokens, which leaves none for the rest."""
    labels = random_labels(rows=4)
    head = torch.zeros(VOCABULARY - 8, HIDDEN)
    head[labels.columns[0, 0]] = 100.0
    x = torch.ones(4, HIDDEN, requires_grad=True)
    found = head_loss(x, head, labels)
    found.total.backward()
    assert found.total.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_no_rows() -> None:
    labels = SoftLabels(*(part[:0] for part in random_labels()))
    x = torch.zeros(0, HIDDEN, requires_grad=True)
    found = head_loss(x, torch.zeros(VOCABULARY - 8, HIDDEN), labels)
    assert (found.total, len(found.best)) == (0, 0)


def test_the_best_draft_has_the_labels_probabilities() -> None:
    """Gradient zero where the draft's confidence is the target's, however the rest is spread."""
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.1, -3.0]])
    labels = Labeller(torch.arange(5), 5, 2)(logits)
    spread_otherwise = logits.clone()
    spread_otherwise[0, [2, 3, 4]] = logits[0, [2, 3, 4]].logsumexp(0) - torch.tensor(3.0).log()
    for x in (logits, spread_otherwise):
        x = x.clone().requires_grad_()
        head_loss(x, torch.eye(5), labels).total.backward()
        assert x.grad is not None
        assert x.grad.abs().max() < 1e-6


def test_labels_of_known_numbers() -> None:
    """Target probabilities 0.4, 0.3, 0.2, 0.1; the draft lacks the first token."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.2, 0.4]]).log()
    labels = Labeller(torch.tensor([1, 2, 3]), 4, 2)(logits)
    torch.testing.assert_close(labels.probs, torch.tensor([[0.3, 0.2], [0.4, 0.3]]))
    assert labels.columns.tolist() == [[0, 1], [2, 0]]
    torch.testing.assert_close(labels.rest, torch.tensor([0.1, 0.2]))
    assert labels.best.tolist() == [NOT_KNOWN, 2]


@pytest.mark.parametrize("k", [1, 5])
def test_known_mass_is_kept(k: int) -> None:
    logits = torch.randn(9, VOCABULARY, generator=generator())
    known = torch.tensor([3, 5, 8, 13, 21, 34])
    labels = Labeller(known, VOCABULARY, k)(logits)
    mass = logits.softmax(-1)[:, known].sum(-1)
    torch.testing.assert_close(labels.probs.sum(-1) + labels.rest, mass)
