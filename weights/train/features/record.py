"""What the target computes while it writes text, kept until it is known what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from server.engine.schedule.plan import PlannedSequence, StepPlan
from server.engine.step.host.runner import Runner
from server.engine.step.host.verify import Verified
from server.engine.step.inputs import slots_of
from server.engine.types import RequestId
from weights.train.features.labels import SoftLabels, soft_labels
from weights.train.features.rows import glimpsed_kv, stored_labels
from weights.train.features.store import FEATURE_DTYPES, FeatureKey, ShardTensors
from weights.train.text.samples import Sample


class _Part(NamedTuple):
    """Neighbouring positions of a request."""

    hidden: torch.Tensor
    """[positions, hidden]"""
    kv: torch.Tensor
    """[positions, layers, 2, kv_heads, head_dim]"""


@dataclass(slots=True)
class _Rows:
    """What was computed of a request. One thread adds to it while another may read it."""

    parts: list[_Part] = field(default_factory=list[_Part])
    """From position 0 on, one after another."""
    num_positions: int = 0
    labels: dict[int, tuple[torch.Tensor, ...]] = field(
        default_factory=dict[int, tuple[torch.Tensor, ...]]
    )
    """By position: what the target says behind it."""

    def add(self, start: int, part: _Part) -> None:
        """Adds positions from `start` on. A request that gave way begins anew."""
        if start == 0:
            self.parts, self.num_positions = [], 0  # a new list: the old one may be being read
        if start == self.num_positions:  # else some were not computed here
            self.parts.append(part)
            self.num_positions += len(part.hidden)


class RowRecorder:
    """Keeps what an engine's steps compute of the requests that it watches. Steps come in the
    engine's thread, all else in one other. The engine decodes plainly, and finds no prefixes.

    Args:
        runner: of the engine.
        key: what is wanted.
    """

    def __init__(self, runner: Runner, key: FeatureKey) -> None:
        self._caches, self._block_size = runner.caches, runner.block_size
        self._key, self._dtype = key, FEATURE_DTYPES[key.dtype]
        self._watched = dict[RequestId, _Rows]()
        runner.verify.observe = self._add

    def watch(self, request_id: RequestId) -> None:
        """To be called before the request is made."""
        self._watched[request_id] = _Rows()

    def forget(self, request_id: RequestId) -> None:
        """The request is over; what was kept of it is dropped."""
        self._watched.pop(request_id, None)

    def _add(self, plan: StepPlan, verified: Verified) -> None:
        rows_of = self._watched.copy()  # requests end while a step runs
        watched = [
            (planned, first, rows_of[planned.request_id])
            for planned, first in zip(plan.sequences, verified.first_rows, strict=True)
            if planned.request_id in rows_of
        ]
        if not watched:
            return
        counts = [planned.num_nodes for planned, _, _ in watched]
        where = [first + i for planned, first, _ in watched for i in range(planned.num_nodes)]
        # Copies: a view would keep the whole step, prompts of others too.
        hidden = verified.hidden[torch.tensor(where, device=verified.hidden.device)]
        kv = self._kv([planned for planned, _, _ in watched])
        parts = zip(hidden.to(self._dtype).cpu().split(counts), kv.split(counts), strict=True)
        for (planned, _, rows), part in zip(watched, parts, strict=True):
            rows.add(planned.num_computed, _Part(*part))
        self._add_labels(verified, rows_of)

    def _kv(self, sequences: Sequence[PlannedSequence]) -> torch.Tensor:
        slots = list[int]()
        for p in sequences:
            positions = range(p.num_computed, p.num_computed + p.num_nodes)
            slots += slots_of(p.block_ids, positions, self._block_size)
        where = torch.tensor(slots, device=self._caches[0].keys.device)
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
        if rows is None:
            return None
        parts, learnt = list(rows.parts), range(sample.first_loss, sample.num_tokens - 1)
        num_there = sum(len(part.hidden) for part in parts)
        if num_there < sample.num_tokens - 1 or not all(i in rows.labels for i in learnt):
            return None
        tensors = {"kv": _first([part.kv for part in parts], sample.num_tokens)}
        if self._key.glimpse_hidden:
            tensors["hidden"] = _first([part.hidden for part in parts], sample.num_tokens)
        labels = zip(*(rows.labels[i] for i in learnt), strict=True)
        return tensors | {
            name: torch.stack(part) for name, part in zip(SoftLabels._fields, labels, strict=True)
        }


def _first(parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """The first `count` rows; zeros where the last one is missing."""
    rows = torch.cat(list(parts))[:count]
    return torch.cat((rows, rows.new_zeros(count - len(rows), *rows.shape[1:])))
