"""Python's side of a native call: tensors, steps and caches as pointers and structs of the C
ABI."""

import ctypes
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch

from server.kernels.cpu import abi, library
from server.kernels.quantized import StackedWeight, Weight
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import RotaryAngles


def loaded_library() -> ctypes.CDLL:
    """The native library. Raises RuntimeError where there is none."""
    found = library.native_library()
    if found is None:
        raise RuntimeError("the native kernels are not available; ask supports() first")
    return found


def pointer(tensor: torch.Tensor | None, dtype: torch.dtype) -> int | None:
    """Address of a tensor's first element; the caller keeps the tensor alive."""
    if tensor is None:
        return None
    if tensor.dtype is not dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"native kernels take contiguous {dtype} tensors on the CPU here, not {tensor.dtype} "
            f"on {tensor.device} with strides {tensor.stride()}"
        )
    return tensor.data_ptr()


def matrix(weight: Weight | None, dtype: torch.dtype = torch.bfloat16) -> abi.Matrix:
    """A weight's addresses and kinds; the caller keeps the weight alive.

    Args:
        dtype: what it has to be in, if not in blocks.
    """
    if weight is None:
        return abi.Matrix()
    if isinstance(weight, torch.Tensor):
        rows = abi.Rows(pointer(weight, dtype), abi.ROW_TYPES[dtype], len(weight))
        return abi.Matrix((rows,))
    parts = weight.parts if isinstance(weight, StackedWeight) else (weight,)
    return abi.Matrix(
        tuple(
            abi.Rows(pointer(part.blocks, torch.uint8), abi.ROW_TYPES[part.kind], len(part))
            for part in parts
        )
    )


def rotary(angles: RotaryAngles) -> abi.Rotary:
    """Rotary angles in the form of the C ABI; the caller keeps them alive."""
    frequencies = pointer(angles.frequencies, torch.float32)
    growth = angles.growth
    if growth is None:
        return abi.Rotary(frequencies, angles.scale)
    return abi.Rotary(frequencies, angles.scale, growth.theta, growth.factor, growth.trained)


def destroy_with(owner: object, destroy: Callable[[int], None], handle: int) -> None:
    """Frees a native object with its Python owner."""
    # Not at exit: a daemon thread may still be inside a step.
    weakref.finalize(owner, destroy, handle).atexit = False


class Numbers:
    """Sequences of numbers in memory, one after another: a step's are few, and tensors of them take
    longer to make.

    Args:
        code: of the module `array`: q for 64-bit integers, f for floats.
    """

    def __init__(self, code: Literal["q", "f"], *parts: Sequence[float]) -> None:
        self._values: array[float] = array(code)
        begins = list[int]()
        for part in parts:
            begins.append(len(self._values))
            self._values.extend(part)
        begin, size = self._values.buffer_info()[0], self._values.itemsize
        self.addresses = [begin + size * i for i in begins]
        """Of each sequence's first number."""


class NativeStep(NamedTuple):
    """A step, and what its pointers point to beside the batch's own tensors."""

    step: abi.Step
    kept: tuple[object, ...]


def native_step(batch: TreeBatch) -> NativeStep:
    """A step in the form of the C ABI."""
    lengths = Numbers("q", batch.context_lens, batch.node_counts)
    context_lens, node_counts = lengths.addresses
    ancestors = None if batch.ancestors is None else batch.ancestors.to(torch.uint8)
    step = abi.Step(
        num_rows=len(batch.positions),
        num_sequences=len(batch.context_lens),
        max_blocks=batch.block_tables.shape[1],
        block_size=batch.block_size,
        max_nodes=0 if ancestors is None else ancestors.shape[1],
        positions=pointer(batch.positions, torch.int64),
        slots=pointer(batch.slots, torch.int64),
        block_tables=pointer(batch.block_tables, torch.int64),
        context_lens=context_lens,
        node_counts=node_counts,
        ancestors=pointer(ancestors, torch.uint8),
    )
    return NativeStep(step, (lengths, ancestors))


class CachePointers:
    """Addresses of a pool's layers, made once: a pool stays where it is.

    Args:
        layers: the pool's layers that are wanted; None for all.
    """

    def __init__(self, layers: Sequence[int] | None = None) -> None:
        self._layers = layers
        self._caches: Sequence[LayerCache] | None = None
        self._pointers: ctypes.Array[abi.Cache] | None = None

    def of(self, caches: Sequence[LayerCache]) -> "ctypes.Array[abi.Cache]":
        if self._pointers is None or self._caches is not caches:
            wanted = caches if self._layers is None else [caches[i] for i in self._layers]
            found = [
                abi.Cache(pointer(c.keys, torch.bfloat16), pointer(c.values, torch.bfloat16))
                for c in wanted
            ]
            self._caches, self._pointers = caches, (abi.Cache * len(found))(*found)
        return self._pointers
