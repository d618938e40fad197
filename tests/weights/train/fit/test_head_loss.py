"""Soft labels and the loss against them, beside their definitions."""

import pytest
import torch

from weights.train.features.labels import soft_labels
from weights.train.fit.head_loss import HeadLoss, head_loss
from weights.train.fit.vocabulary import KnownLabels, OwnTokens, Vocabulary

ROWS, HIDDEN, VOCABULARY = 600, 16, 40
"""More rows than a chunk."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def known_labels(logits: torch.Tensor, k: int = 5, num_known: int = VOCABULARY - 8) -> KnownLabels:
    """Labels of a draft that knows only the first tokens."""
    own = nothing_own()
    vocabulary = vocabulary_of(torch.zeros(logits.shape[1], HIDDEN), num_known)
    is_shown = torch.zeros(len(logits), 0, dtype=torch.bool)
    return vocabulary.known(soft_labels(logits, k), is_shown, own)


def nothing_own() -> OwnTokens:
    return OwnTokens(torch.zeros(0).long(), torch.zeros(1, 0).long())


def vocabulary_of(head: torch.Tensor, num_known: int) -> Vocabulary:
    return Vocabulary(torch.arange(num_known), head, most_own=0)


def random_labels(rows: int = ROWS) -> KnownLabels:
    return known_labels(torch.randn(rows, VOCABULARY, generator=generator()) * 2)


def loss_of(x: torch.Tensor, head: torch.Tensor, labels: KnownLabels) -> HeadLoss:
    """head: [known tokens, hidden]"""
    vocabulary = vocabulary_of(head, len(head))
    is_shown = torch.zeros(len(x), 0, dtype=torch.bool)
    return head_loss(x, vocabulary.head(nothing_own()), is_shown, labels)


def plain_loss(logits: torch.Tensor, labels: KnownLabels) -> torch.Tensor:
    """logits: [rows, known tokens]"""
    probs = torch.cat((logits.double().softmax(-1), torch.zeros(len(logits), 1)), dim=1)
    known = probs.gather(1, labels.columns)
    logs = torch.where(labels.probs > 0, known.log(), 0.0)
    losses = -(labels.probs * logs).sum(-1) - labels.rest * (1 - known.sum(-1)).log()
    return losses.sum()


def test_loss_and_gradient_equal_autograd() -> None:
    """Among labels that the draft can't say."""
    labels = random_labels()
    assert (labels.columns == VOCABULARY - 8).any()
    head = torch.randn(VOCABULARY - 8, HIDDEN, generator=generator())
    x = torch.randn(ROWS, HIDDEN, generator=generator()).requires_grad_()
    other = x.detach().clone().requires_grad_()
    found = loss_of(x, head, labels)
    (found.total / 3).backward()
    logits = other @ head.T
    expected = plain_loss(logits, labels)
    (expected / 3).backward()
    torch.testing.assert_close(found.total.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.best, logits.argmax(-1))


def test_own_tokens_are_scored_where_they_are_shown() -> None:
    """The same loss as of a head of each row's own tokens alone."""
    head = torch.randn(VOCABULARY, HIDDEN, generator=generator())
    own = OwnTokens(torch.tensor([20, 31, 39]), torch.tensor([[0, 4, 2**60]]))
    vocabulary = Vocabulary(torch.arange(16), head, most_own=8)
    is_shown = torch.tensor([[False, False, False], [True, False, False], [True, True, False]])
    x = torch.randn(3, HIDDEN, generator=generator())
    labels = soft_labels(torch.randn(3, VOCABULARY, generator=generator()) * 3, 12)
    found = head_loss(x, vocabulary.head(own), is_shown, vocabulary.known(labels, is_shown, own))
    expected = torch.zeros(())
    for row, shown in enumerate(is_shown):
        ids = torch.cat((torch.arange(16), own.token_ids[shown]))
        alone = Vocabulary(ids, head, most_own=0)
        one = type(labels)(*(part[row : row + 1] for part in labels))
        nothing = torch.zeros(1, 0, dtype=torch.bool)
        known = alone.known(one, nothing, nothing_own())
        expected += head_loss(x[row : row + 1], alone.head(nothing_own()), nothing, known).total
    torch.testing.assert_close(found.total, expected)


def test_a_draft_that_is_certain_stays_finite() -> None:
    """All of the draft's mass is on labelled tokens, which leaves none for the rest."""
    labels = random_labels(rows=4)
    head = torch.zeros(VOCABULARY - 8, HIDDEN)
    head[int(labels.columns[0].min())] = 100.0
    x = torch.ones(4, HIDDEN, requires_grad=True)
    found = loss_of(x, head, labels)
    found.total.backward()
    assert found.total.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_no_rows() -> None:
    labels = KnownLabels(*(part[:0] for part in random_labels()))
    x = torch.zeros(0, HIDDEN, requires_grad=True)
    found = loss_of(x, torch.zeros(VOCABULARY - 8, HIDDEN), labels)
    assert (found.total, len(found.best)) == (0, 0)


def test_the_best_draft_has_the_labels_probabilities() -> None:
    """Gradient zero where the draft's confidence is the target's, however the rest is spread."""
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.1, -3.0]])
    labels = known_labels(logits, 2, num_known=5)
    spread_otherwise = logits.clone()
    spread_otherwise[0, [2, 3, 4]] = logits[0, [2, 3, 4]].logsumexp(0) - torch.tensor(3.0).log()
    for x in (logits, spread_otherwise):
        x = x.clone().requires_grad_()
        loss_of(x, torch.eye(5), labels).total.backward()
        assert x.grad is not None
        assert x.grad.abs().max() < 1e-6


@pytest.mark.parametrize("k", [1, 5, VOCABULARY, VOCABULARY + 3])
def test_labels_are_the_targets_distribution(k: int) -> None:
    logits = torch.randn(9, VOCABULARY, generator=generator())
    labels = soft_labels(logits, k)
    top = logits.softmax(-1).topk(min(k, VOCABULARY))
    torch.testing.assert_close(labels.probs, top.values)
    assert torch.equal(labels.token_ids, top.indices)
