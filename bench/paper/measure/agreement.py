"""How often a GliDe is right, position by position along the target's own text: no rounds, no luck.

For each token of an answer as root (position p, its target KV not yet written) the draft is fed the
answer's own tokens, delay 1 … γ: at delay s it reads the token at p + s - 1, the target's KV before
p and its final hidden state at p - 1, exactly as in the s-th step of a round, and predicts the
token at p + s. Counted at each delay:

    greedy form     the draft's most probable token is the target's
    sampling form   sum over x of min(target_probs(x), draft_probs(x)) at temperature 1: the chance
                    that a token drawn from the draft is accepted (Leviathan et al., 2023); tokens
                    that the draft can't say count 0

Both follow the target's greedy text. Unlike in a chain run every position counts at every delay,
also where the draft would have failed before it.

Runs beside the engine, with caches of its own in blocks of one token: a root's drafted tokens then
get slots of their own behind the text's (`_Text.table`), and many roots draft in one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from server.engine.drafters.context_tokens import own_token_ids, token_columns
from server.engine.speculation.lookup import Match, matches, source
from server.engine.step.inputs import Nodes, StepInputs, build_inputs
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.step.model import Model
from server.kernels.tree import LayerCache
from server.kernels.types import Caches, CopyHints, DraftStep, OwnTokens
from server.models.glide import GlideModel

_PREFILL_ROWS = 256
_ROOTS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Agreement:
    """Sums over the roots of one answer, per delay 1 … γ."""

    counts: tuple[int, ...]
    hits: tuple[int, ...]
    """Greedy form."""
    overlap: tuple[float, ...]
    """Sampling form."""


def overlap(
    target_probs: torch.Tensor, draft_probs: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Sum over the vocabulary of the smaller probability.

    Args:
        target_probs: [rows, vocab]
        draft_probs: [rows, columns]
        columns: [rows, columns] int64: the token behind each of the draft's.

    Returns:
        [rows], 0 … 1
    """
    return torch.minimum(target_probs.gather(1, columns), draft_probs).sum(dim=1)


@dataclass(frozen=True, slots=True)
class _Text:
    """One answer behind its prompt, after the target's pass over it.

    Example, 6 tokens, γ 2, roots 3 and 4 (the last token is no root):

        slot    0 … 5          6 7        8 9
        holds   the text's KV  of root 3  of root 4
        table of root 4: 0 1 2 3 8 9
    """

    token_ids: Sequence[int]
    depth: int
    caches: Sequence[LayerCache]
    """The draft's caches."""
    target_caches: Sequence[LayerCache]
    hidden: torch.Tensor
    """[tokens - 1, hidden] the target's final hidden states."""
    matches: Sequence[Match | None]
    """Per token, what lookup finds behind it."""

    def table(self, root: int, index: int) -> list[int]:
        """Blocks of the text before the root, then the root's own. index: within its batch."""
        own = len(self.token_ids) + index * self.depth
        return [*range(root), *range(own, own + self.depth)]


class TeacherForced:
    """Runs target and draft over given answers.

    Args:
        caches: the engine's caches, of which only the shape is used.
        depth: γ, the largest delay.
    """

    def __init__(
        self, target: Model, glide: GlideModel, caches: Sequence[LayerCache], depth: int
    ) -> None:
        keys = caches[0].keys
        self.target, self.glide, self.depth = target, glide, depth
        self.device = keys.device
        self.target_shape = CacheShape(len(caches), keys.shape[2], keys.shape[3], keys.dtype)
        self.shape = CacheShape(*glide.cache_shape, keys.dtype)
        self._fixed = frozenset[int](glide.draft_token_ids.tolist())

    @torch.inference_mode()
    def measure(self, prompt: Sequence[int], answer: Sequence[int]) -> Agreement:
        """Runs target and draft over one answer. The first token of the answer is never predicted:
        it is the prompt's, which no draft sees."""
        token_ids = [*prompt, *answer]
        counts, hits = [0] * self.depth, [0] * self.depth
        overlaps = [0.0] * self.depth
        roots = range(len(prompt), len(token_ids) - 1)
        if not roots:
            return Agreement(tuple(counts), tuple(hits), tuple(overlaps))
        text = self._read(token_ids)
        for batch in _batches(roots):
            probs = self._target_probs(text, batch)
            for delay in range(1, self.depth + 1):
                active = [root for root in batch if root + delay < len(token_ids)]
                if not active:
                    break
                logits, columns = self._draft(text, active, delay)
                draft_probs = logits.softmax(dim=-1)
                best = columns.gather(1, draft_probs.argmax(dim=-1, keepdim=True))[:, 0]
                right = torch.tensor([token_ids[r + delay] for r in active], device=self.device)
                first = delay - 1
                rows = probs[first : first + len(active)]
                counts[first] += len(active)
                hits[first] += int((best == right).sum())
                overlaps[first] += float(overlap(rows, draft_probs, columns).sum())
        return Agreement(tuple(counts), tuple(hits), tuple(overlaps))

    def _read(self, token_ids: Sequence[int]) -> _Text:
        """Computes the target's and the draft's KV of all tokens but the last."""
        num_slots = len(token_ids) + _ROOTS_AT_ONCE * self.depth
        target_caches = allocate_kv(self.target_shape, num_slots, 1, self.device)
        caches = allocate_kv(self.shape, num_slots, 1, self.device)
        hidden = list[torch.Tensor]()
        for start in range(0, len(token_ids) - 1, _PREFILL_ROWS):
            end = min(start + _PREFILL_ROWS, len(token_ids) - 1)
            inputs = self._inputs([Nodes(range(end), start, token_ids[start:end])])
            hidden.append(self.target(inputs.token_ids, target_caches, inputs.batch))
            self.glide.fill(inputs.token_ids, inputs.batch, Caches(caches, target_caches))
        return _Text(
            token_ids, self.depth, caches, target_caches, torch.cat(hidden), matches(token_ids)
        )

    def _target_probs(self, text: _Text, batch: range) -> torch.Tensor:
        """[rows, vocab]: row i is the distribution of the token after position batch[0] + i; up to
        the largest delay of the batch's last root, or the text's end."""
        end = batch[-1] + self.depth
        return self.target.logits(text.hidden[batch[0] : end]).softmax(dim=-1)

    def _draft(
        self, text: _Text, roots: Sequence[int], delay: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One drafting step of each root's round: logits [roots, columns], and the tokens behind
        these."""
        nodes = [
            Nodes(text.table(root, index), root + delay - 1, (text.token_ids[root + delay - 1],))
            for index, root in enumerate(roots)
        ]
        inputs = self._inputs(nodes)
        hidden = None
        if self.glide.glimpse_hidden:
            hidden = text.hidden[[root - 1 for root in roots]]
        own = self._own_tokens(text, roots)
        hints = self._copy_hints(text, roots, delay)
        step = DraftStep(inputs.token_ids, inputs.batch, tuple(roots), hidden, delay, own, hints)
        logits = self.glide.draft(step, Caches(text.caches, text.target_caches))
        return logits, token_columns(self.glide.draft_token_ids, own, inputs.batch.node_counts)

    def _copy_hints(self, text: _Text, roots: Sequence[int], delay: int) -> CopyHints | None:
        """What lookup finds in the text up to each root, `delay` tokens behind it."""
        if not self.glide.copy_hint:
            return None
        found = [text.matches[root] for root in roots]
        token_ids = [
            -1 if match is None else text.token_ids[source(match, root + 1, delay - 1)]
            for root, match in zip(roots, found, strict=True)
        ]
        num_equal = [0 if match is None else match.num_equal for match in found]
        return CopyHints(
            torch.tensor(token_ids, device=self.device), torch.tensor(num_equal, device=self.device)
        )

    def _own_tokens(self, text: _Text, roots: Sequence[int]) -> OwnTokens:
        """What the text shows up to each root, beyond the draft's vocabulary."""
        most = self.glide.context_vocab_size
        ids = [
            own_token_ids(text.token_ids[: root + 1], self._fixed, most) if most else []
            for root in roots
        ]
        tensors = [torch.tensor(some, dtype=torch.int64, device=self.device) for some in ids]
        rows = [self.glide.head_rows(some) if most else some[:, None] for some in tensors]
        return OwnTokens(tuple(tensors), tuple(rows))

    def _inputs(self, nodes: Sequence[Nodes]) -> StepInputs:
        return build_inputs(nodes, block_size=1, device=self.device)


def _batches(roots: range) -> Iterator[range]:
    for start in range(0, len(roots), _ROOTS_AT_ONCE):
        yield roots[start : start + _ROOTS_AT_ONCE]
