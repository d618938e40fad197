"""What rank 0 sends to the workers: calls of the models, and copies inside the KV pool.

A call's head goes through a pipe per worker, as JSON: an idle server waits there without a time
limit, and a rank 0 that ends is seen by its workers as the pipe's end. Tensors follow in one
broadcast of the process group, on a GPU from device to device.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch
from torch import distributed

CallName = Literal["forward", "logits", "draft_forward", "draft_logits", "glide", "fill", "copy_kv"]
"""Two calls of the target, two of a language model as draft, two of a GliDe draft, and one of the
target's KV pool."""

_ALIGNMENT = 16
"""Bytes to which each tensor's place in the broadcast is rounded up."""


class Call(NamedTuple):
    """Something that every rank does at the same time."""

    name: CallName
    tensors: Sequence[torch.Tensor | None] = ()
    numbers: Mapping[str, Sequence[int]] = {}


class _Head(NamedTuple):
    """A call as it goes through the pipe."""

    name: CallName
    shapes: Sequence[tuple[str, Sequence[int]] | None]
    """dtype and shape of each tensor."""
    numbers: Mapping[str, Sequence[int]]


def send(call: Call, pipes: Sequence[Connection]) -> None:
    """Sends a call from rank 0 to the workers at the pipes' other ends.

    Raises:
        OSError: a worker's pipe is broken.
        RuntimeError: a broadcast failed.
    """
    shapes = [None if t is None else (_dtype_name(t.dtype), list(t.shape)) for t in call.tensors]
    head = json.dumps(_Head(call.name, shapes, call.numbers)).encode()
    for pipe in pipes:
        pipe.send_bytes(head)
    present = [tensor for tensor in call.tensors if tensor is not None]
    if present:
        distributed.broadcast(_packed(present), src=0)


def receive(pipe: Connection, device: torch.device) -> Call | None:
    """A worker's next call, its tensors on the device; None when rank 0 has ended or closed.

    Raises:
        RuntimeError: a broadcast failed.
    """
    try:
        head = _Head(*json.loads(pipe.recv_bytes()))
    except (EOFError, ConnectionResetError):
        return None
    shapes = [None if s is None else (_dtype(s[0]), tuple(s[1])) for s in head.shapes]
    sizes = [0 if s is None else _room(s[0], s[1]) for s in shapes]
    if not any(shape is not None for shape in shapes):
        return Call(head.name, [None] * len(shapes), head.numbers)
    packed = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    distributed.broadcast(packed, src=0)
    tensors = list[torch.Tensor | None]()
    for shape, part in zip(shapes, packed.split(sizes), strict=True):
        tensors.append(None if shape is None else _unpacked(part, *shape))
    return Call(head.name, tensors, head.numbers)


def _packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All tensors as [bytes] uint8, since one broadcast costs less than one per tensor."""
    pieces = list[torch.Tensor]()
    for tensor in tensors:
        piece = tensor.contiguous().view(-1).view(torch.uint8)
        pieces.append(piece)
        pieces.append(piece.new_zeros(_room(tensor.dtype, tensor.shape) - len(piece)))
    return torch.cat(pieces)


def _unpacked(part: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return part[: prod(shape) * dtype.itemsize].view(dtype).view(shape)


def _room(dtype: torch.dtype, shape: Sequence[int]) -> int:
    """Bytes of a tensor in the broadcast."""
    return -(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)
