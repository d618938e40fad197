"""What is done to each row by itself, as native calls: norms, the largest of its logits, and tokens
drawn from them."""

import ctypes
from collections.abc import Sequence

import torch

from server.kernels.cpu import abi, library
from server.kernels.cpu.steps import loaded_library, pointer
from server.kernels.types import TokenDraw


def supports_norm(weight: torch.Tensor) -> bool:
    """Whether `NativeNorm` takes this weight, once in float32."""
    fits = len(weight) % 16 == 0 and weight.dtype in (torch.bfloat16, torch.float32)
    return fits and weight.device.type == "cpu" and library.native_library() is not None


class NativeNorm:
    """x / rms(x) * weight, rounded once.

    Args:
        weight: [dim] float32
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight, self._eps, self._dim = weight.contiguous(), eps, len(weight)
        self._address = pointer(self._weight, torch.float32)
        self._norm = loaded_library().glidecape_rms_norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] in float32 or bfloat16 -> the same shape and precision"""
        x, dim = x.contiguous(), self._dim
        if x.shape[-1] != dim:
            raise ValueError(f"a weight of {dim} for rows of {x.shape[-1]}")
        y, is_float = torch.empty_like(x), x.dtype is torch.float32
        rows = pointer(x, torch.float32 if is_float else torch.bfloat16)
        sizes = (x.numel() // dim, dim, self._eps, int(is_float))
        self._norm(rows, self._address, *sizes, y.data_ptr())
        return y


def supports_logits(logits: torch.Tensor) -> bool:
    """Whether `best_tokens` and `draw_tokens` take these logits on this machine."""
    plain = logits.device.type == "cpu" and logits.dtype is torch.float32
    return plain and logits.is_contiguous() and library.native_library() is not None


def best_tokens(logits: torch.Tensor) -> list[int]:
    """The largest entry of each row [rows, vocab], the first among equals; -1 for rows with NaN."""
    num_rows, width = logits.shape
    best = (ctypes.c_int64 * num_rows)()
    loaded_library().glidecape_best(logits.data_ptr(), num_rows, width, ctypes.addressof(best))
    return list(best)


def draw_tokens(logits: torch.Tensor, draws: Sequence[TokenDraw]) -> list[int]:
    """One token of each row [rows, vocab], as `TokenDraw` says; vocab for rows that have NaN or no
    largest finite logit."""
    num_rows, width = logits.shape
    # A larger top_k may not fit the structure.
    how = (abi.Draw * num_rows)(*(draw._replace(top_k=min(draw.top_k, width)) for draw in draws))
    drawn = (ctypes.c_int64 * num_rows)()
    loaded_library().glidecape_draw(
        logits.data_ptr(), num_rows, width, how, ctypes.addressof(drawn)
    )
    return list(drawn)
