"""Weights that the native CPU kernels multiply, put in the places of a transformers model's own.

torch's products round a row otherwise in another company: one row, or seventeen, are multiplied by
other code. In bfloat16, speculation, which brings rows, could then change a token. The native
products form a row's sums in the same order whatever is beside it (`kernels/cpu/linear.py`), take
weights in blocks of 4 or 8 bits too, and are faster, twice as fast in float32.

The models' code is left as it is: where it multiplies by such a weight, in `F.linear` or `@`, torch
asks the weight's class, which is ours.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from server.kernels.cpu.linear import NativeLinear, supports_linear
from server.kernels.quantized import Weight
from server.models.quantization import Quantization

_OF_SHAPE = frozenset({"__get__", "size", "dim", "numel", "is_floating_point", "__len__"})
"""What may be asked of a weight without values; `__get__` is of attributes, such as `dtype`."""
CASTS = (torch.Tensor.type, torch.Tensor.type_as, torch.Tensor.to, torch.Tensor.float)
"""Leave a weight as it is: products follow their input's precision. Routers ask for float32."""
PRODUCTS = (
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.matmul,
    torch.mm,
    torch.Tensor.mm,
)
"""Of rows, and a weight [inputs, outputs]."""
_KEPT = re.compile(
    r"(?:^|\.)(?:experts|gate|router|\w+_router|(?:shared_)?experts?_gate|moe_gate)(?:\.|$)"
)
"""In the paths of linear layers that are no rounding's: experts, and what chooses or weighs them. A
choice that rounding turns is a far larger error than a rounded weight's. (An expert's `gate_proj`
is an expert's; a plain or shared one's is rounded.)"""


class RowWeight(torch.Tensor):
    """A weight that is multiplied natively; it has a shape, and no values of its own."""

    products: Sequence[NativeLinear]
    """One per matrix: a single one, or an expert's each."""
    transposed: bool
    """Whether its matrices are [inputs, outputs], for `@`, `addmm` and `bmm`; else
    [outputs, inputs], for `F.linear`."""
    keeps_float: bool
    """Whether results stay in float32, instead of taking the input's precision."""

    @classmethod
    def of(
        cls,
        shape: torch.Size,
        products: Sequence[NativeLinear],
        transposed: bool = False,
        keeps_float: bool = False,
    ) -> "RowWeight":
        made = torch.zeros(1, dtype=products[0].dtype).expand(shape).as_subclass(cls)
        made.products, made.transposed, made.keeps_float = products, transposed, keeps_float
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        operands: tuple[Any, ...] = (*args, None, None)
        first, second = operands[:2]
        if func in PRODUCTS and isinstance(second, RowWeight):
            return second.applied_to(first)
        if func is torch.addmm and len(args) == 3 and not kwargs:
            return args[2].applied_to(second, first)
        if func is torch.bmm and isinstance(second, RowWeight):
            return torch.stack([second.expert(i).applied_to(x) for i, x in enumerate(first)])
        if func is torch.Tensor.__getitem__ and isinstance(first, RowWeight):
            return first.expert(int(second))
        if func in CASTS:
            return first
        if func.__name__ not in _OF_SHAPE:
            raise TypeError(f"{func.__name__} reads a weight that only native kernels hold")
        return super().__torch_function__(func, types, args, kwargs or {})

    def expert(self, index: int) -> "RowWeight":
        """One of several matrices."""
        shape, product = self.shape[1:], self.products[index]
        return RowWeight.of(shape, (product,), self.transposed, self.keeps_float)

    def applied_to(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]"""
        (product,) = self.products
        found = product(x.reshape(-1, x.shape[-1]).to(product.dtype))
        if bias is not None:
            found += bias
        found = found.view(*x.shape[:-1], found.shape[-1])
        return found if self.keeps_float else found.to(x.dtype)


def _linear(x: torch.Tensor, weight: RowWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    return weight.applied_to(x, bias)


def multiply_natively(
    model: torch.nn.Module,
    multiplied: Mapping[str, bool],
    quantization: Quantization | None,
    head: torch.nn.Module | None = None,
) -> None:
    """Exchanges the weights that the native kernels take.

    Args:
        multiplied: parameters that are multiplied -> whether transposed; see `Probed`.
        quantization: form that the weights of linear layers are rounded to; routers' and experts'
            stay as they are.
        head: the linear layer of `model` whose result stays in float32.
    """
    for path, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear)
        for name, weight in list(module.named_parameters(recurse=False)):
            if is_linear and name == "weight":
                transposed = False
            elif weight.dim() == 3 and hasattr(module, "is_transposed"):  # transformers' experts
                transposed = bool(module.is_transposed)
            elif f"{path}.{name}" in multiplied:
                transposed = multiplied[f"{path}.{name}"]
            else:
                continue
            values = weight.detach().mT if transposed else weight.detach()
            matrices = values.unbind() if values.dim() == 3 else (values,)
            form = quantization if is_linear and not _KEPT.search(path) else None
            products = _products(matrices, form)
            if products:
                made = RowWeight.of(weight.shape, products, transposed, module is head)
                delattr(module, name)
                setattr(module, name, made)


def _products(matrices: Sequence[torch.Tensor], form: Quantization | None) -> list[NativeLinear]:
    """None at all where the kernels do not take all of them."""
    if not all(supports_linear(matrix) for matrix in matrices):
        return []
    threads = torch.get_num_threads()
    return [NativeLinear(_in(form, matrix.contiguous()), threads) for matrix in matrices]


def _in(form: Quantization | None, matrix: torch.Tensor) -> Weight:
    return matrix if form is None else form.of_one("", matrix)
