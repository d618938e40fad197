"""The GliDe draft of one layer as single native calls: a forward, a fill, whole chains."""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar

import torch

from server.kernels.cpu import abi
from server.kernels.cpu.decoder import native_layer, native_shape, supports
from server.kernels.cpu.steps import (
    CachePointers,
    Numbers,
    destroy_with,
    loaded_library,
    matrix,
    native_step,
    pointer,
    rotary,
)
from server.kernels.quantized import GROUP, BlockWeight, Weight
from server.kernels.tree import LayerCache
from server.kernels.types import (
    Caches,
    Chain,
    ChainEnds,
    CopyHints,
    DraftStep,
    Filling,
    GlideShape,
    GlideWeights,
    OwnTokens,
    Roots,
)

T = TypeVar("T", int, float)
MAX_CANDIDATES = 32
"""Most candidates per row; kMaxCandidates in candidates.h."""


def supports_glide(shape: GlideShape, head: Weight) -> bool:
    """Whether the native draft runs on this machine and takes these sizes and this precision."""
    granule = GROUP if isinstance(head, BlockWeight) else 2
    return (
        shape.own.num_layers == 1
        and supports(shape.own, head)
        and shape.cross_head_dim % 32 == 0
        and shape.target_hidden % (GROUP if shape.copy_hint else granule) == 0
        and shape.cross_heads // shape.cross_kv_heads <= 64
    )


class NativeGlide:
    """A native draft of one layer."""

    def __init__(self, shape: GlideShape, weights: GlideWeights, num_threads: int) -> None:
        self.shape = shape
        self._embedding = weights.embedding.contiguous()
        native_weights, kept = _native_weights(weights, self._embedding)
        native = abi.GlideShape(
            native_shape(shape.own),
            *(shape.cross_heads, shape.cross_kv_heads, shape.cross_head_dim),
            *(len(weights.windows), len(weights.head), shape.target_hidden, len(weights.delays)),
            *(shape.copy_hint, len(weights.matches) - 1),
            *(rotary(weights.rotary), rotary(weights.cross_rotary)),
        )
        self._num_tokens = len(weights.head)
        self._library = loaded_library()
        self._handle = self._library.glidecape_glide_create(native, native_weights, num_threads)
        del kept  # everything but the embedding was copied
        destroy_with(self, self._library.glidecape_glide_destroy, self._handle)
        self._own, self._glimpsed = CachePointers(), CachePointers(weights.glimpsed)

    def logits(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        """One drafting step, like `GlideModel.draft`."""
        if isinstance(step.verified_lens, torch.Tensor):
            raise ValueError("native kernels take lengths that the host knows")
        rows, own = native_step(step.batch), _OwnPointers(step.own)
        lens = torch.tensor(step.verified_lens)
        hidden = self._checked(step.hidden)
        native = abi.GlideStep(
            step=rows.step,
            token_ids=pointer(step.token_ids, torch.int64),
            visible_lens=pointer(lens, torch.int64),
            hidden=pointer(hidden, torch.bfloat16),
            delay=step.delay,
            own=own.pointer,
            **_hint_pointers(step.copy_hints),
        )
        most = 0 if step.own is None else step.own.most
        logits = torch.empty(len(step.token_ids), self._num_tokens + most)
        self._library.glidecape_glide_logits(
            self._handle, native, self._caches(caches), logits.data_ptr()
        )
        return logits

    def fill(self, filling: Filling, own: Sequence[LayerCache]) -> None:
        """Writes the rows' own KV."""
        step, token_ids = native_step(filling.batch), pointer(filling.token_ids, torch.int64)
        native = abi.GlideStep(step=step.step, token_ids=token_ids)
        (own_cache,) = self._own.of(own)
        caches = abi.GlideCaches(own_cache, None)
        self._library.glidecape_glide_fill(self._handle, native, caches)
        del step  # its tensors were read until now

    def chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Caches,
        num_candidates: int,
    ) -> list[Chain]:
        """Drafts a chain per sequence, in their order."""
        if not 1 <= num_candidates <= min(MAX_CANDIDATES, self._num_tokens):
            raise ValueError(f"{num_candidates} candidates of {self._num_tokens} tokens")
        hidden = self._checked(_stacked(roots.hidden))
        call = _Round(roots, ends, hidden, num_candidates)
        self._library.glidecape_glide_draft(self._handle, call.native, self._caches(caches))
        return call.chains()

    def _checked(self, hidden: torch.Tensor | None) -> torch.Tensor | None:
        if not self.shape.target_hidden:
            return None
        if hidden is None:
            raise ValueError("this draft glimpses the target's hidden state; none was given")
        if hidden.dtype is not torch.bfloat16:
            hidden = hidden.to(torch.bfloat16)
        return hidden.contiguous()

    def _caches(self, caches: Caches) -> abi.GlideCaches:
        (own,) = self._own.of(caches.own)
        return abi.GlideCaches(own, self._glimpsed.of(caches.target))


class _Round:
    """The drafting of chains in the form of the C ABI: keeps what it points to, and gives what was
    written."""

    def __init__(
        self,
        roots: Roots,
        ends: ChainEnds,
        hidden: torch.Tensor | None,
        num_candidates: int,
    ) -> None:
        self._count, self._wide = len(roots.depths), num_candidates
        size = roots.depths[0] * self._count * num_candidates
        self._found = array("q", bytes(8 * size))
        self._confidences = array("f", bytes(4 * size))
        self._lengths = array("q", bytes(8 * self._count))
        widest = max(map(len, roots.block_tables))
        numbers = Numbers(
            "q", roots.token_ids, roots.starts, roots.depths,
            [i for table in roots.block_tables for i in (*table, *(0,) * (widest - len(table)))],
            list(chain.from_iterable(roots.copied or ())),
            list(chain.from_iterable(roots.num_equal or ())),
            list(map(len, roots.behind or ())), list(chain.from_iterable(roots.behind or ())),
        )  # fmt: skip
        limits, own = Numbers("f", *ends), _OwnPointers(roots.own)
        self._kept = (numbers, limits, own, hidden)
        *of_roots, copied, num_equal, behind_counts, behind = numbers.addresses
        self.native = abi.Round(
            *(self._count, widest, roots.block_size, num_candidates, *of_roots),
            *((None, None) if roots.behind is None else (behind_counts, behind)),
            *(pointer(hidden, torch.bfloat16), own.pointer),
            *((None, None) if roots.copied is None else (copied, num_equal)),
            *(*limits.addresses, len(ends.offsets)),
            *(part.buffer_info()[0] for part in (self._found, self._confidences, self._lengths)),
        )

    def chains(self) -> list[Chain]:
        """What was drafted, sequence by sequence."""
        return [
            Chain(self._of_sequence(self._found, i), self._of_sequence(self._confidences, i))
            for i in range(self._count)
        ]

    def _of_sequence(self, part: "array[T]", index: int) -> tuple[tuple[T, ...], ...]:
        wide, step = self._wide, self._count * self._wide
        begins = range(index * wide, self._lengths[index] * step, step)
        return tuple(tuple(part[begin : begin + wide]) for begin in begins)


def _stacked(hidden: Sequence[torch.Tensor] | None) -> torch.Tensor | None:
    """[sequences, target hidden size]; without the first dimension where there is one."""
    if hidden is None:
        return None
    return hidden[0] if len(hidden) == 1 else torch.stack(tuple(hidden))


class _OwnPointers:
    """Addresses of sequences' own tokens; keeps what they lead to."""

    def __init__(self, own: OwnTokens | None) -> None:
        self.pointer: Any = None
        if own is None or not own.most:
            return
        rows = [r if r.dtype is torch.bfloat16 else r.to(torch.bfloat16) for r in own.rows]
        numbers = Numbers(
            "q",
            [part.shape[0] for part in own.token_ids],
            [pointer(part, torch.int64) or 0 for part in own.token_ids],
            [pointer(part, torch.bfloat16) or 0 for part in rows],
        )
        self._kept = (own, rows, numbers)
        self.pointer = ctypes.pointer(abi.OwnTokens(own.most, *numbers.addresses))


def _hint_pointers(hints: CopyHints | None) -> dict[str, int | None]:
    """The addresses of what was looked up; the tensors have to be kept."""
    if hints is None:
        return {"copied": None, "num_equal": None}
    return {
        "copied": pointer(hints.token_ids, torch.int64),
        "num_equal": pointer(hints.num_equal, torch.int64),
    }


def _native_weights(
    weights: GlideWeights, embedding: torch.Tensor
) -> tuple[abi.GlideWeights, list[object]]:
    """The weights' addresses, and the objects that must live as long as these are used."""
    layer = native_layer(weights.layer)
    windows = (ctypes.c_int32 * len(weights.windows))(*(w or 0 for w in weights.windows))
    kept: list[object] = [layer, windows]

    def vector(tensor: torch.Tensor | None) -> int | None:
        if tensor is None:
            return None
        kept.append(tensor := tensor.detach().float().contiguous())
        return pointer(tensor, torch.float32)

    native = abi.GlideWeights(
        layer=layer.layer,
        windows=ctypes.addressof(windows),
        cross_norm=vector(weights.cross_norm),
        cross_query=matrix(weights.cross_query),
        cross_query_bias=vector(weights.cross_query_bias),
        cross_output=matrix(weights.cross_output),
        final_norm=vector(weights.final_norm),
        head=matrix(weights.head),
        token_ids=pointer(weights.token_ids, torch.int64),
        embedding=pointer(embedding, torch.bfloat16),
        hint_proj=matrix(weights.hint_proj),
        delays=vector(weights.delays),
        matches=vector(weights.matches),
    )
    return native, kept
