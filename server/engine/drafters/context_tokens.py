"""The tokens of a sequence beyond a draft's fixed vocabulary, which the draft may propose there."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import torch

from server.engine.schedule.plan import PlannedSequence
from server.engine.types import RequestId
from server.kernels.types import OwnTokens


@dataclass(slots=True)
class _Shown:
    """The tokens that one sequence has shown, and their rows of the head."""

    rows: torch.Tensor
    """[most, hidden] rows of the target's head; as many are set as there are ids."""
    ids: torch.Tensor
    """[most] int64: `token_ids`, where the rows are."""
    token_ids: list[int] = field(default_factory=list[int])
    num_seen: int = 0
    """Tokens of the sequence that were looked at."""
    known: tuple[torch.Tensor, torch.Tensor] = field(init=False)
    """As many ids and rows as are set."""

    def __post_init__(self) -> None:
        self.show()

    def show(self) -> None:
        """To be called when some have been set."""
        count = len(self.token_ids)
        self.known = self.ids[:count], self.rows[:count]


def own_token_ids(token_ids: Iterable[int], fixed: Collection[int], most: int) -> list[int]:
    """The first `most` distinct ids that are not fixed, in the order in which they come."""
    others = dict.fromkeys(token_id for token_id in token_ids if token_id not in fixed)
    return list(islice(others, most))


def token_columns(fixed: torch.Tensor, own: OwnTokens, node_counts: Sequence[int]) -> torch.Tensor:
    """[nodes, fixed + own.most] int64: the token of each column of a node's logits. Columns after
    its sequence's own tokens may hold any token."""
    padded = torch.nn.utils.rnn.pad_sequence(list(own.token_ids), batch_first=True)
    counts = torch.tensor(node_counts, device=padded.device)
    padded = padded.repeat_interleave(counts, dim=0)
    return torch.cat((fixed.expand(len(padded), -1), padded), dim=1)


class ContextTokens:
    """Keeps these tokens, with their rows of the target's head, as sequences grow.

    Args:
        fixed: token ids that the draft can always propose.
        most: most tokens of a sequence; the first ones are kept, as in training.
        head_rows: token ids [n] -> their rows of the target's head [n, hidden].
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        most: int,
        head_rows: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self._fixed = frozenset[int](fixed.tolist())
        self._most = most
        self._head_rows = head_rows
        self._shown: dict[RequestId, _Shown] = {}

    def of(self, sequences: Sequence[PlannedSequence]) -> OwnTokens:
        """What the sequences show up to their last tokens."""
        ids, rows = zip(*(self._updated(sequence).known for sequence in sequences), strict=True)
        return OwnTokens(ids, rows)

    def forget(self, request_id: RequestId) -> None:
        self._shown.pop(request_id, None)

    def _updated(self, sequence: PlannedSequence) -> _Shown:
        shown = self._shown.get(sequence.request_id)
        if shown is None:
            none = self._head_rows(torch.zeros(0, dtype=torch.int64))
            ids = torch.empty(self._most, dtype=torch.int64, device=none.device)
            shown = _Shown(none.new_empty(self._most, none.shape[1]), ids)
            self._shown[sequence.request_id] = shown
        if shown.num_seen == len(sequence.token_ids):
            return shown
        had = len(shown.token_ids)
        if had < self._most:
            new = chain(shown.token_ids, sequence.token_ids[shown.num_seen :])
            shown.token_ids = own_token_ids(new, self._fixed, self._most)
        shown.num_seen = len(sequence.token_ids)
        if added := shown.token_ids[had:]:
            ids = torch.tensor(added)
            shown.ids[had : had + len(added)] = ids
            shown.rows[had : had + len(added)] = self._head_rows(ids)
            shown.show()
        return shown
