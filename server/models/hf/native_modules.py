"""What of a transformers model's modules native kernels do in fewer calls than its own code.

With one stream, Python and torch's small operations between the products take as long as these. So
linear layers that multiply the same input are computed together, when the first of them is called,
and a norm is one call instead of eight. The models' code is left as it is: modules get another
`forward`, once that was seen to give what theirs gives.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn

from server.kernels.cpu.linear import NativeLinear, NativeProducts
from server.kernels.cpu.rows import NativeNorm, supports_norm
from server.models.hf.row_weights import RowWeight

_EPSILONS = ("variance_epsilon", "eps", "epsilon")
_SCALES = (1e-3, 1.0, 1e3)
"""Of the rows on which norms are compared: an epsilon matters to small ones."""


class RowLinear:
    """The `forward` of a linear layer whose weight native kernels multiply."""

    def __init__(self, product: NativeLinear, bias: torch.Tensor | None) -> None:
        self.product, self.bias = product, bias
        self._others: Sequence[RowLinear] = ()
        self._joined = NativeProducts((product,))
        self._ready: tuple[torch.Tensor, torch.Tensor] | None = None
        """An input, and what this layer makes of it."""

    @property
    def form(self) -> tuple[object, ...]:
        """What layers must have in common to be multiplied together: the form of their weights."""
        return self.product.dtype, self.product.is_in_blocks, self.product.num_inputs

    @property
    def num_joined(self) -> int:
        """Layers that are computed with this one, itself included."""
        return 1 + len(self._others)

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]"""
        x = input  # torch names the argument of `forward` so
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] is x:
            return ready[1]
        rows = x.reshape(-1, x.shape[-1]).to(self.product.dtype)
        has_bias = any(each.bias is not None for each in (self, *self._others))
        rounded = x.dtype is torch.bfloat16 and not has_bias
        found = self._joined(rows, torch.bfloat16 if rounded else torch.float32)
        for other, y in zip(self._others, found[1:], strict=True):
            other._ready = x, other._finish(x, y)
        return self._finish(x, found[0])

    def join(self, others: Sequence["RowLinear"]) -> None:
        """Has others, which are to be called with the same input, computed with this one."""
        self._others = others
        self._joined = NativeProducts((self.product, *(other.product for other in others)))

    def forget(self) -> None:
        """Drops what was computed ahead."""
        self._ready = None

    def _finish(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def take_linears(model: nn.Module) -> dict[nn.Module, RowLinear]:
    """Gives the linear layers whose weights are natively multiplied their `forward`."""
    found = dict[nn.Module, RowLinear]()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if type(module) is nn.Linear and isinstance(weight, RowWeight) and not weight.keeps_float:
            found[module] = RowLinear(weight.products[0], module.bias)
            module.forward = found[module]
    return found


def join_linears(linears: Mapping[nn.Module, RowLinear], run: Callable[[], torch.Tensor]) -> None:
    """Joins layers that get the same input.

    Args:
        run: runs the model, and gives the same result each time. If it does not with joined layers,
            which change no bit, they are left alone.
    """
    calls = list[tuple[RowLinear, torch.Tensor]]()

    def noting(linear: RowLinear) -> Any:
        def forward(input: torch.Tensor) -> torch.Tensor:
            calls.append((linear, input))
            return linear(input)

        return forward

    for module, linear in linears.items():
        module.forward = noting(linear)
    expected = run()
    for module, linear in linears.items():
        module.forward = linear
    joined = _of_one_input(calls)
    for first, *others in joined:
        first.join(others)
    if not torch.equal(run(), expected):
        for first, *_ in joined:
            first.join(())
    for linear in linears.values():
        linear.forget()


def _of_one_input(calls: Sequence[tuple[RowLinear, torch.Tensor]]) -> list[list[RowLinear]]:
    """Layers that were called once, by their input, in the order of their calls."""
    times = Counter(linear for linear, _ in calls)
    found = dict[tuple[object, ...], list[RowLinear]]()
    for linear, x in calls:
        if times[linear] == 1:
            found.setdefault((id(x), linear.form), []).append(linear)
    return [linears for linears in found.values() if len(linears) > 1]


class RowNorm:
    """The `forward` of a root-mean-square norm."""

    def __init__(self, norm: NativeNorm, own: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._norm, self._own = norm, own

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> the same; what is no float that native kernels know is left to `own`."""
        is_known = x.dtype in (torch.bfloat16, torch.float32)
        return self._norm(x) if is_known else self._own(x)


@torch.no_grad()
def take_norms(model: nn.Module) -> int:
    """Gives root-mean-square norms their `forward`; returns how many."""
    offsets, taken = dict[tuple[object, ...], float | None](), 0
    for module in model.modules():
        eps = _epsilon(module)
        if eps is None:
            continue
        weight = module.get_parameter("weight").detach().float()
        key = type(module), len(weight), *_plain_attributes(module)
        if key not in offsets:
            offsets[key] = _offset(module, eps)
        offset = offsets[key]
        if offset is not None:
            module.forward = RowNorm(NativeNorm(weight + offset, eps), module.forward)
            taken += 1
    return taken


def _plain_attributes(module: nn.Module) -> list[tuple[str, object]]:
    """What instances of a class may differ in, the epsilon among it."""
    return sorted((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str))


def _epsilon(module: nn.Module) -> float | None:
    """The epsilon of a module that may be such a norm: one that has a vector of weights, an
    epsilon and nothing else, and takes rows and nothing else; None for others."""
    named = dict(module.named_parameters())
    values = [getattr(module, name) for name in _EPSILONS if hasattr(module, name)]
    is_simple = not list(module.children()) and not list(module.buffers())
    if list(named) != ["weight"] or not is_simple or len(values) != 1:
        return None
    weight, takes = named["weight"], len(signature(module.forward).parameters)
    fits = weight.dim() == 1 and takes == 1 and isinstance(values[0], float)
    return values[0] if fits and supports_norm(weight) else None


def _offset(module: nn.Module, eps: float) -> float | None:
    """What the norm adds to its weights, 0 or 1, found out by random weights and rows; None for
    a module that computes something else."""
    dtype = module.get_parameter("weight").dtype
    twin = copy.deepcopy(module).float()
    weight = twin.get_parameter("weight")
    generator = torch.Generator().manual_seed(len(weight))
    weight.copy_(torch.randn(weight.shape, generator=generator))
    rows = torch.randn(len(_SCALES), 2, 3, len(weight), generator=generator)
    rows *= torch.tensor(_SCALES).view(-1, 1, 1, 1)
    rows += rows.abs().mean(dim=-1, keepdim=True)  # LayerNorm would take this off
    try:
        found = torch.stack([twin(row) for row in rows])
        is_kept = module(rows[0].to(dtype)).dtype is dtype
    except Exception:  # whatever a model's own code raises for what it is not made for
        return None
    for offset in (0.0, 1.0):
        if (
            is_kept
            and found.shape == rows.shape
            and torch.allclose(
                found, NativeNorm(weight.detach() + offset, eps)(rows), rtol=1e-4, atol=1e-6
            )
        ):
            return offset
    return None
