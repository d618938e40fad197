"""From logits to tokens: penalties, bias, temperature, truncation, one keyed uniform per row.

Each row is treated on its own terms, so a batch may mix greedy and sampled requests, and a row's
token does not depend on the other rows. The order of the steps is `SamplingParams`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch

from server.engine.outputs import TokenLogprobs
from server.engine.step.inputs import rows_of
from server.engine.step.logprobs import token_logprobs
from server.engine.step.truncation import keep_mask
from server.engine.types import SamplingParams
from server.kernels.dispatch import greedy_tokens, kernels_for, native_draw
from server.kernels.types import TokenDraw
from server.kernels.uniform import signed, uniform


class Masks(Protocol):
    """What the sampler needs of a grammar's state (`grammar/state.py`)."""

    def forbidden(self) -> torch.Tensor | None:
        """[vocab] bool on the CPU: tokens that may not come next; None where all may."""
        ...

    def accept(self, token_id: int) -> bool:
        """Advances by a token; False, and no change, if the grammar forbids it."""
        ...


@dataclass(frozen=True, slots=True)
class SamplerRow:
    """What must be known to draw one token."""

    params: SamplingParams
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    """Tokens between the prompt and the one to draw."""
    stop_ids: frozenset[int]
    """Masked while fewer than params.min_tokens tokens are out."""
    grammar: Masks | None = None
    """The grammar's state after output_ids."""
    avoided_ids: frozenset[int] = frozenset()
    """Masked unless there is nothing else."""
    num_more: int = 0
    """Tokens behind output_ids and before the one to draw, for a row that ignores them."""

    def ahead(self, num_more: int) -> "SamplerRow":
        """What draws the token so many further on, where the row ignores those between."""
        if self.params.greedy:  # the position plays no part
            return self
        return replace(self, num_more=num_more)

    @property
    def position(self) -> int:
        """Position of the token to draw, in its sequence."""
        return len(self.prompt_ids) + len(self.output_ids) + self.num_more

    @property
    def ignores_text(self) -> bool:
        """Whether a token is drawn, and nothing else asked, whatever the tokens before it are."""
        return not _changes_logits(self) and self.params.logprobs is None


class Sampled(NamedTuple):
    """One token per row."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


def sample(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> Sampled:
    """Draws one token per row. logits: [len(rows), vocab_size] float32, not changed.

    Raises:
        ValueError: a row has NaN, or infinity where a token is drawn: the model's weights or its
            precision are broken.
    """
    processed = _process(logits, rows)
    token_ids = greedy_tokens(logits, processed)
    drawn = [i for i, row in enumerate(rows) if not row.params.greedy]
    if drawn:
        found = _draw(rows_of(processed, drawn), [rows[i] for i in drawn])
        if max(found) >= logits.shape[1]:  # there is no largest token to begin with
            raise ValueError("the model computed infinite logits; its dtype is unusable")
        for i, token_id in zip(drawn, found, strict=True):
            token_ids[i] = token_id
    return Sampled(token_ids, _logprobs(logits, token_ids, rows))


def _process(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> torch.Tensor:
    """Penalties, bias, grammar and min_tokens; a copy only if some row asks for any."""
    touched = [i for i, row in enumerate(rows) if _changes_logits(row)]
    if not touched:
        return logits
    logits = logits.clone()
    for i in touched:
        _penalise(logits[i], rows[i])
        _add_bias(logits[i], rows[i].params)
        _mask_forbidden(logits[i], rows[i])
        held_back = _held_back(rows[i])
        if held_back:
            _mask_stops(logits[i], held_back)
    return logits


def _add_bias(logits: torch.Tensor, params: SamplingParams) -> None:
    """logits: [vocab], changed in place."""
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device)


def _mask_forbidden(logits: torch.Tensor, row: SamplerRow) -> None:
    """Masks what the grammar forbids. logits: [vocab], changed in place."""
    forbidden = None if row.grammar is None else row.grammar.forbidden()
    if forbidden is not None:
        logits.masked_fill_(forbidden.to(logits.device), float("-inf"))


def _held_back(row: SamplerRow) -> frozenset[int]:
    """Stop ids that may not be drawn yet."""
    too_short = len(row.output_ids) < row.params.min_tokens
    return row.stop_ids if too_short else row.avoided_ids


def _mask_stops(logits: torch.Tensor, stop_ids: frozenset[int]) -> None:
    """Masks stop ids, unless no other token is left. logits: [vocab], changed in place."""
    masked = logits.clone()
    masked[list(stop_ids)] = float("-inf")
    if not bool(masked.isneginf().all()):
        logits.copy_(masked)


def _changes_logits(row: SamplerRow) -> bool:
    params = row.params
    masked = row.grammar is not None or bool(_held_back(row))
    return params.has_penalties or bool(params.logit_bias) or masked


def _penalise(logits: torch.Tensor, row: SamplerRow) -> None:
    """Applies the repetition penalty over prompt and output, and the frequency and presence
    penalties over the output. logits: [vocab], changed in place."""
    params = row.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor([*row.prompt_ids, *row.output_ids], device=logits.device).unique()
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if row.output_ids and (params.frequency_penalty or params.presence_penalty):
        output = torch.tensor(row.output_ids, device=logits.device)
        seen, counts = output.unique(return_counts=True)
        logits[seen] -= params.frequency_penalty * counts + params.presence_penalty


def _draw(logits: torch.Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    """Draws from what temperature, top_k, top_p and min_p leave, by each row's seed and position.

    Args:
        logits: [len(rows), vocab]; all rows have a temperature above 0.

    Returns:
        A token of each row; vocab or more where its logits are no distribution.
    """
    if (draw := native_draw(logits)) is not None:
        return draw([_token_draw(row) for row in rows])
    device = logits.device
    temperatures = torch.tensor([row.params.temperature for row in rows], device=device)
    seeds = torch.tensor([signed(row.params.seed) for row in rows], device=device)
    positions = torch.tensor([row.position for row in rows], device=device)
    keep = _kept(logits, temperatures, rows)
    return kernels_for(logits).draw(logits, temperatures, keep, seeds, positions).tolist()


def _token_draw(row: SamplerRow) -> TokenDraw:
    p = row.params
    return TokenDraw(p.temperature, p.top_k, p.top_p, p.min_p, uniform(p.seed, row.position))


def _kept(
    logits: torch.Tensor, temperatures: torch.Tensor, rows: Sequence[SamplerRow]
) -> torch.Tensor | None:
    """[rows, vocab] bool, None where no row leaves anything out."""
    params, device = [row.params for row in rows], logits.device
    if not any(p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in params):
        return None
    return keep_mask(
        (logits / temperatures[:, None]).softmax(dim=-1),
        torch.tensor([p.top_k for p in params], device=device),
        torch.tensor([p.top_p for p in params], device=device),
        torch.tensor([p.min_p for p in params], device=device),
    )


def _logprobs(
    logits: torch.Tensor, token_ids: list[int], rows: Sequence[SamplerRow]
) -> list[TokenLogprobs | None]:
    """Logprobs of the rows that ask for them, under the model's own distribution."""
    result: list[TokenLogprobs | None] = [None] * len(rows)
    wanting = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    if not wanting:
        return result
    chosen = [token_ids[i] for i in wanting]
    counts = [rows[i].params.logprobs or 0 for i in wanting]
    for i, entry in zip(wanting, token_logprobs(logits[wanting], chosen, counts), strict=True):
        result[i] = entry
    return result
