"""Linear layers in the layout the machine multiplies fastest.

On x86 CPUs oneDNN multiplies bfloat16 by a weight in its own blocked layout; handing it the
plain layout makes it rearrange the weight at every call (1.5 to 2.3 times slower for a step of one
row, `docs/log.md`).
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

LinearFn = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in_features] -> [rows, out_features]"""


def reference_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFn:
    """weight: [out_features, in_features], bias: [out_features]."""
    return lambda x: F.linear(x, weight, bias)


def packed_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFn:
    """Like `reference_linear`, with a copy of the weight in oneDNN's layout; the caller may drop
    its own."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    apply = torch.ops.mkldnn._linear_pointwise
    return lambda x: apply(x, packed, bias, "none", [], "")


def can_pack(weight: torch.Tensor) -> bool:
    """Whether `packed_linear` takes this weight on this machine."""
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
