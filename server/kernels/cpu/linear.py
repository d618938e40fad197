"""Products of rows with weights, as native calls.

A row's result depends neither on the other rows nor on the number of threads (`layers.h`).
"""

import ctypes
from collections.abc import Sequence

import torch

from server.kernels.cpu import library
from server.kernels.cpu.steps import destroy_with, loaded_library, matrix, pointer
from server.kernels.quantized import BlockWeight, Weight


def supports_linear(weight: Weight) -> bool:
    """Whether the native library multiplies this weight [outputs, inputs]."""
    if isinstance(weight, BlockWeight):
        return library.native_library() is not None
    return supports_products(weight.device, weight.dtype) and weight.shape[1] % 2 == 0


def supports_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the native library multiplies such weights, where their inputs are even."""
    is_plain = dtype in (torch.bfloat16, torch.float32)
    return is_plain and device.type == "cpu" and library.native_library() is not None


class NativeLinear:
    """x W^T with a float32 result. The weight [outputs, inputs] is copied.

    Attributes:
        dtype: what rows come in: the weight's, bfloat16 where that is in blocks.
        num_outputs, num_inputs: the weight's shape.
        is_in_blocks: whether the weight is in blocks.
    """

    def __init__(self, weight: Weight, num_threads: int) -> None:
        self.num_outputs, self.num_inputs = weight.shape
        is_float = isinstance(weight, torch.Tensor) and weight.dtype is torch.float32
        self.dtype = torch.float32 if is_float else torch.bfloat16
        self._library = loaded_library()
        self._handle = self._library.glidecape_linear_create(
            matrix(weight, self.dtype), self.num_outputs, self.num_inputs, num_threads
        )
        destroy_with(self, self._library.glidecape_linear_destroy, self._handle)
        self.is_in_blocks = isinstance(weight, BlockWeight)
        self._alone = NativeProducts((self,))

    @property
    def handle(self) -> int:
        """The native object, for calls that take several."""
        return self._handle

    def __call__(self, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[rows, inputs] -> [rows, outputs] in float32, or rounded to bfloat16"""
        return self._alone(x, dtype)[0]


class NativeProducts:
    """Products of the same rows with several weights of one form, in one call.

    Args:
        linears: outlive this object.
    """

    def __init__(self, linears: Sequence[NativeLinear]) -> None:
        self._library = loaded_library()
        self._count, self._dtype = len(linears), linears[0].dtype
        self._num_inputs = linears[0].num_inputs
        self._widths = [linear.num_outputs for linear in linears]
        self._pointers = ctypes.c_void_p * len(linears)
        self._handles = self._pointers(*(linear.handle for linear in linears))

    def __call__(self, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        """[rows, inputs] -> for each weight [rows, its outputs], float32 or rounded to bfloat16"""
        if x.shape != (len(x), self._num_inputs):
            raise ValueError(f"{self._num_inputs} inputs, not rows of shape {list(x.shape)}")
        x, num_rows = x.contiguous(), len(x)
        found = [torch.empty(num_rows, width, dtype=dtype) for width in self._widths]
        self._library.glidecape_linear_run(
            *(self._handles, self._count, pointer(x, self._dtype), num_rows),
            *(int(dtype is torch.bfloat16), self._pointers(*(y.data_ptr() for y in found))),
        )
        return found
