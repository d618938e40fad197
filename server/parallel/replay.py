"""A worker's loop: makes the calls that rank 0 makes, on its own shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from server.engine.step.kv_cache import copy_kv
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import Caches, DraftStep
from server.models.causal_lm import CausalLM
from server.models.glide import GlideModel
from server.parallel.calls import Call, receive


@dataclass(frozen=True, slots=True)
class Replayed:
    """The models that a worker runs, with their KV in the blocks that rank 0 hands out."""

    target: CausalLM
    caches: Sequence[LayerCache]
    draft: GlideModel | CausalLM | None = None
    draft_caches: Sequence[LayerCache] = ()

    @property
    def _kv(self) -> Caches:
        return Caches(self.draft_caches, self.caches)

    def run(self, call: Call) -> None:
        """Makes a call and drops its result, which only rank 0 uses."""
        match call.name:
            case "forward":
                self.target(_given(call.tensors[0]), self.caches, _batch(call))
            case "logits":
                self.target.logits(_given(call.tensors[0]))
            case "copy_kv":
                copy_kv(self.caches, call.numbers["sources"], call.numbers["targets"])
            case _:
                self._run_draft(call)

    def _run_draft(self, call: Call) -> None:
        first = _given(call.tensors[0])
        match call.name, self.draft:
            case "draft_forward", CausalLM() as model:
                model(first, self.draft_caches, _batch(call))
            case "draft_logits", CausalLM() as model:
                model.logits(first)
            case "fill", GlideModel() as glide:
                glide.fill(first, _batch(call), self._kv)
            case "glide", GlideModel() as glide:
                lens, delay = call.numbers["verified_lens"], call.numbers["delay"][0]
                step = DraftStep(first, _batch(call), tuple(lens), call.tensors[5], delay)
                glide.draft(step, self._kv)
            case _:
                raise RuntimeError(f"this worker has no draft for {call.name!r}")


@torch.inference_mode()
def replay(pipe: Connection, device: torch.device, models: Replayed) -> None:
    """Runs until rank 0 closes the pipe or ends.

    Raises:
        RuntimeError: a collective failed, since another rank has ended.
    """
    while (call := receive(pipe, device)) is not None:
        models.run(call)


def _batch(call: Call) -> TreeBatch:
    """The step behind a call's token ids, see `remote.batch_tensors`."""
    _, positions, slots, block_tables, ancestors, *_ = call.tensors
    numbers = call.numbers
    return TreeBatch(
        positions=_given(positions),
        slots=_given(slots),
        block_tables=_given(block_tables),
        context_lens=tuple(numbers["context_lens"]),
        node_counts=tuple(numbers["node_counts"]),
        ancestors=ancestors,
        block_size=numbers["block_size"][0],
    )


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:
        raise RuntimeError("the call lacks a tensor")
    return tensor
