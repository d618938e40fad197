"""A GliDe draft that knows the answers: right, right at second choice, or wrong, by a pattern over
positions. Deep paths and accepted leaves, which a random draft never has."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from server.engine.drafters.glide import GlideDrafter
from server.engine.types import Request
from server.kernels.tree import LayerCache
from server.kernels.types import Caches, DraftStep
from tests.engine.tiny import CPU, VOCAB_SIZE


class OracleGlide:
    """Stands for `models/glide.py`.

    Args:
        pattern: T (the right token first), L (second) and x (not at all), repeated over positions.
    """

    glimpse_hidden = False
    drafts_chains = False
    context_vocab_size = 0
    copy_hint = False

    def __init__(
        self, requests: Sequence[Request], answers: Mapping[str, Sequence[int]], pattern: str
    ) -> None:
        self.draft_token_ids = torch.arange(VOCAB_SIZE)
        self.pattern = torch.tensor([ord(letter) for letter in pattern])
        longest = 256
        self.next = torch.zeros(longest, VOCAB_SIZE, dtype=torch.int64)
        """[position, token there]: the token after it; sequences that share both share a guess."""
        for request in requests:
            tokens = [*request.prompt_token_ids, *answers[request.request_id]]
            for position, (token, after) in enumerate(pairwise(tokens)):
                self.next[position, token] = after

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        positions = step.batch.positions
        right = self.next[positions.clamp(max=255), step.token_ids]
        letter = self.pattern[positions % len(self.pattern)]
        worth = torch.where(letter == ord("T"), 9.0, torch.where(letter == ord("L"), 7.0, -9.0))
        logits = torch.arange(VOCAB_SIZE) * 0.01 + torch.zeros(len(right), 1)
        wrong = (right + 1) % VOCAB_SIZE
        logits = logits.scatter(1, wrong[:, None], 8.0)
        return logits.scatter(1, right[:, None], worth[:, None])

    def head_rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def fill(self, *_: object) -> None: ...

    def draft_chains(self, *_: object) -> None:
        raise NotImplementedError


def oracle_drafter(
    requests: Sequence[Request],
    answers: Mapping[str, Sequence[int]],
    pattern: str,
    caches: Sequence[LayerCache],
    block_size: int,
) -> GlideDrafter:
    model = OracleGlide(requests, answers, pattern)
    return GlideDrafter(model, [], caches, block_size, CPU)  # pyright: ignore[reportArgumentType]
