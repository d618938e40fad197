"""Cross entropy of the draft's head against soft labels, with its gradient, chunk by chunk.

The head is frozen and is most of a step's arithmetic. Its logits are needed once: the gradient is
written over them while they are in the processor's cache, and only [rows, hidden] is kept.

With p_1..p_k the label's probabilities, r its mass on all other tokens and q the draft's softmax,

    loss = - sum_i p_i log q_i - r log(1 - sum_i q_i)

that is, all other tokens count as one: how the draft spreads its mass over them is left to it, how
much that is, is not. It is smallest where the draft's confidence is the target's.
"""

from typing import Any, NamedTuple

import torch

from weights.train.fit.batches import TrainBatch
from weights.train.fit.vocabulary import BatchHead, KnownLabels, Vocabulary

_CHUNK = {"cpu": 256}
"""Rows by kind of device; 256 are 8 MB of logits with a vocabulary of 8192."""
_LARGE_CHUNK = 8192
"""Rows for other devices, which have the memory for it."""
_NEVER = -1e4
"""Logit of what a row can't say: its exponential is 0, and 0 times it is 0."""
_TINY = 1e-30
"""Least sum over the other tokens, beside the draft's best one that counts 1."""


class BatchLoss(NamedTuple):
    total: torch.Tensor
    """[] sum over the rows, with its gradient."""
    is_right: torch.Tensor
    """[rows] bool: where the draft's most probable token is the target's."""


def batch_loss(
    x: torch.Tensor, vocabulary: Vocabulary, batch: TrainBatch, delays: torch.Tensor
) -> BatchLoss:
    """The loss of a batch's rows.

    Args:
        x: [true rows, hidden], after the final norm.
        delays: [B, R]
    """
    is_shown = batch.is_shown(delays)
    labels = vocabulary.known(batch.labels, is_shown, batch.own)
    total, best = head_loss(x.float(), vocabulary.head(batch.own), is_shown, labels)
    return BatchLoss(total, best == labels.best)


class HeadLoss(NamedTuple):
    total: torch.Tensor
    """[] sum over the rows, with its gradient."""
    best: torch.Tensor
    """[rows] int64: column of the draft's most probable token."""


def head_loss(
    x: torch.Tensor, head: BatchHead, is_shown: torch.Tensor, labels: KnownLabels
) -> HeadLoss:
    """The loss of rows, by the module's formula.

    Args:
        x: [rows, hidden] float32, after the final norm.
        head: the frozen head, in the precision to multiply in.
        is_shown: [rows, U] bool: which of the batch's own tokens a row can say.
    """
    return HeadLoss(*_HeadLoss.apply(x, head, is_shown, labels))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, head: BatchHead, is_shown: torch.Tensor, labels: KnownLabels
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, best = x.new_zeros(()), list[torch.Tensor]()
        gradient = torch.empty_like(x)
        chunk = _CHUNK.get(x.device.type, _LARGE_CHUNK)
        for start in range(0, len(x), chunk):
            rows = slice(start, start + chunk)
            logits = (x[rows].to(head.weight.dtype) @ head.weight.T).float()
            logits[:, head.num_fixed] = _NEVER
            logits[:, head.num_fixed + 1 :].masked_fill_(~is_shown[rows], _NEVER)
            peak = logits.max(dim=-1)
            best.append(peak.indices)
            logits -= peak.values[:, None]
            total += _loss_into_gradient(logits, KnownLabels(*(part[rows] for part in labels)))
            gradient[rows] = logits.to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(gradient)
        columns = torch.cat(best) if best else labels.best
        ctx.mark_non_differentiable(columns)
        return total, columns

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0], None, None, None


def _loss_into_gradient(logits: torch.Tensor, labels: KnownLabels) -> torch.Tensor:
    """Replaces logits [rows, columns], whose highest is 0 in each row, by their gradient;
    returns the loss []."""
    columns, probs, rest = labels.columns, labels.probs, labels.rest
    labelled = logits.gather(1, columns)
    # The others' sum is taken without the labelled tokens: as a difference it would be lost to
    # rounding wherever the draft is sure.
    exp = logits.exp_().scatter_(1, columns, 0.0)
    others = exp.sum(dim=-1).clamp_min(_TINY)
    labelled_exp = labelled.exp()
    sums = others + labelled_exp.sum(dim=-1)
    weight = probs.sum(dim=-1) + rest
    losses = weight * sums.log() - (probs * labelled).sum(dim=-1) - rest * others.log()
    exp *= (weight / sums - rest / others)[:, None]
    exp.scatter_(1, columns, labelled_exp * (weight / sums)[:, None] - probs)
    return losses.sum()
