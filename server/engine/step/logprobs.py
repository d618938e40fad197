"""Logprobs of given tokens under the model's own distribution: of drawn ones and of a prompt's."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from server.engine.outputs import TokenLogprobs
from server.engine.schedule.plan import PlannedSequence

_ROWS_AT_ONCE = 64
"""Rows of a prompt whose logits are computed at once. A row's logits take a megabyte where the
vocabulary is large, and a chunk has thousands of rows."""


class _Head(Protocol):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


def token_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], counts: Sequence[int]
) -> list[TokenLogprobs]:
    """One entry per row.

    Args:
        logits: [rows, vocab]
        token_ids: the token whose logprob is wanted, one per row.
        counts: how many of the most probable tokens to report beside it, one per row.
    """
    logprobs = logits.log_softmax(dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0]
    best = logprobs.topk(max(counts), dim=-1)
    indices, values = best.indices.tolist(), best.values.tolist()
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(ids[:count], tops[:count], strict=True)))
        for token_id, logprob, ids, tops, count in zip(
            token_ids, chosen.tolist(), indices, values, counts, strict=True
        )
    ]


class _Row(NamedTuple):
    """A position of a prompt: its row in the step, and the token that follows."""

    row: int
    next_token_id: int
    num_top: int


def score_prompts(
    model: _Head,
    hidden: torch.Tensor,
    sequences: Sequence[PlannedSequence],
    first_rows: Sequence[int],
) -> list[tuple[TokenLogprobs, ...]]:
    """Logprobs of the prompts' tokens after each scored node, per sequence.

    Args:
        hidden: [rows, hidden] final hidden states of the step.
        first_rows: row of each sequence's first node.
    """
    rows = [_scored_rows(*pair) for pair in zip(sequences, first_rows, strict=True)]
    entries = _score(model, hidden, [row for of_sequence in rows for row in of_sequence])
    return [tuple(next(entries) for _ in of_sequence) for of_sequence in rows]


def _scored_rows(planned: PlannedSequence, first_row: int) -> list[_Row]:
    num_top = planned.request.params.prompt_logprobs or 0
    following = planned.num_computed + 1
    return [
        _Row(first_row + node, planned.token_ids[following + node], num_top)
        for node in planned.scored
    ]


def _score(model: _Head, hidden: torch.Tensor, rows: Sequence[_Row]) -> Iterator[TokenLogprobs]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        index = torch.tensor([row.row for row in some], device=hidden.device)
        yield from token_logprobs(
            model.logits(hidden[index]),
            [row.next_token_id for row in some],
            [row.num_top for row in some],
        )
