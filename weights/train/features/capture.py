"""What the target computes while it writes text, kept until it is known what becomes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from server.engine.grammar.states import AnswerState
from server.engine.schedule.plan import PlannedSequence, StepPlan
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree
from server.engine.step.host.runner import Runner
from server.engine.step.host.verify import Verified, Verifier
from server.engine.step.inputs import slots_of
from server.engine.types import RequestId
from weights.train.features.labels import SoftLabels, soft_labels
from weights.train.features.rows import glimpsed_kv, stored_labels
from weights.train.features.store import FEATURE_DTYPES, FeatureKey, ShardTensors
from weights.train.text.samples import Sample


@dataclass(slots=True)
class _Rows:
    """What was computed of one request, in the order of its positions."""

    hidden: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    kv: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    num_positions: int = 0
    labels: dict[int, tuple[torch.Tensor, ...]] = field(
        default_factory=dict[int, tuple[torch.Tensor, ...]]
    )
    """By position: what the target says behind it."""

    def add(self, start: int, hidden: torch.Tensor, kv: torch.Tensor) -> None:
        """Adds rows from position `start` on. A request that gave way begins anew."""
        if start == 0:
            self.hidden, self.kv, self.num_positions = [], [], 0
        if start == self.num_positions:  # else some were not computed here
            self.hidden.append(hidden)
            self.kv.append(kv)
            self.num_positions += len(hidden)


class Capture:
    """Keeps what an engine's steps compute of the requests that it watches. Steps come in the
    engine's thread, all else in one other. The engine decodes plainly, and finds no prefixes.

    Args:
        runner: of the engine; its forward is exchanged for one that is watched.
        key: what is wanted.
    """

    def __init__(self, runner: Runner, key: FeatureKey) -> None:
        self._caches, self._block_size = runner.caches, runner.block_size
        self._key, self._dtype = key, FEATURE_DTYPES[key.dtype]
        self._watched = dict[RequestId, _Rows]()
        runner.verify = CapturingVerifier(**vars(runner.verify), capture=self)

    def watch(self, request_id: RequestId) -> None:
        """To be called before the request is made."""
        self._watched[request_id] = _Rows()

    def forget(self, request_id: RequestId) -> None:
        """The request is over; what was kept of it is dropped."""
        self._watched.pop(request_id, None)

    def add(self, plan: StepPlan, verified: Verified) -> None:
        """Keeps the step's rows of watched requests, which decode plainly."""
        rows_of = self._watched.copy()  # requests end while a step runs
        watched = [
            (planned, first, rows_of[planned.request_id])
            for planned, first in zip(plan.sequences, verified.first_rows, strict=True)
            if planned.request_id in rows_of
        ]
        if not watched:
            return
        kv = self._kv([planned for planned, _, _ in watched])
        at = 0
        for planned, first, rows in watched:
            count = planned.num_nodes
            hidden = verified.hidden[first : first + count].to(self._dtype).cpu()
            rows.add(planned.num_computed, hidden, kv[at : at + count])
            at += count
        self._add_labels(verified, rows_of)

    def _kv(self, sequences: Sequence[PlannedSequence]) -> torch.Tensor:
        slots = list[int]()
        for p in sequences:
            positions = range(p.num_computed, p.num_computed + p.num_nodes)
            slots += slots_of(p.block_ids, positions, self._block_size)
        device = self._caches[0].keys.device
        where = torch.tensor(slots, device=device)
        return glimpsed_kv(self._caches, self._key.glimpse_layers, where, self._dtype)

    def _add_labels(self, verified: Verified, rows_of: dict[RequestId, _Rows]) -> None:
        drawing = [(p, walk) for p, walk in verified.walks if p.request_id in rows_of]
        if verified.logits is None or not drawing:
            return
        where = torch.tensor([walk.first_row for _, walk in drawing], device=verified.logits.device)
        labels = stored_labels(soft_labels(verified.logits[where], self._key.top_k))
        for index, (planned, _) in enumerate(drawing):
            last = planned.num_computed + planned.num_nodes - 1
            parts = tuple(labels[name][index] for name in SoftLabels._fields)
            rows_of[planned.request_id].labels[last] = parts

    def take(self, request_id: RequestId, sample: Sample) -> ShardTensors | None:
        """The features of a request's prompt and answer, which is forgotten; None where some are
        missing.

        An answer's last token need not have been computed, and its features are zeros then: nothing
        is learnt behind it, so that nobody reads them.
        """
        rows = self._watched.pop(request_id, None)
        count, learnt = sample.num_tokens, range(sample.first_loss, sample.num_tokens - 1)
        if (
            rows is None
            or rows.num_positions < count - 1
            or not all(i in rows.labels for i in learnt)
        ):
            return None
        tensors = {"kv": _whole(rows.kv, count)}
        if self._key.glimpse_hidden:
            tensors["hidden"] = _whole(rows.hidden, count)
        parts = zip(*(rows.labels[i] for i in learnt), strict=True)
        return tensors | {
            name: torch.stack(part) for name, part in zip(SoftLabels._fields, parts, strict=True)
        }


def _whole(parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """The first `count` rows, with zeros where the last one is missing."""
    rows = torch.cat(list(parts))[:count]
    return torch.cat((rows, rows.new_zeros(count - len(rows), *rows.shape[1:])))


@dataclass
class CapturingVerifier(Verifier):
    """The engine's forward, whose results a capture sees too."""

    capture: Capture

    def __call__(
        self,
        plan: StepPlan,
        trees: Mapping[RequestId, TokenTree],
        chains: Mapping[RequestId, Proposal],
        grammars: Mapping[RequestId, AnswerState],
    ) -> Verified:
        verified = super().__call__(plan, trees, chains, grammars)
        self.capture.add(plan, verified)
        return verified
