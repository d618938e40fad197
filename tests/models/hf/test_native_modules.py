"""Modules with another `forward`: which get one, and that it gives what theirs gives."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from server.kernels.cpu.linear import NativeLinear, NativeProducts
from server.kernels.cpu.rows import NativeNorm
from server.models.hf import model as loading
from server.models.hf.native_modules import (
    RowLinear,
    RowNorm,
    join_linears,
    take_linears,
    take_norms,
)
from server.models.hf.row_weights import multiply_natively
from tests.kernels.native_models import needs_native
from tests.models.hf.families import FAMILIES, our_model, reference_model

pytestmark = needs_native()
DIM = 32


class Block(nn.Module):
    """Three layers over one input, and one over another."""

    def __init__(self, changes_input: bool = False) -> None:
        super().__init__()
        self.changes_input = changes_input
        self.first, self.second, self.third = (nn.Linear(DIM, n, bias=n == 16) for n in (8, 16, 24))
        self.last = nn.Linear(8, DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        if self.changes_input:
            x += 1
        return torch.cat((self.last(first), self.second(x), self.third(x)), dim=-1)


def taken(block: Block, dtype: torch.dtype) -> dict[nn.Module, RowLinear]:
    multiply_natively(block, {}, None)
    assert next(block.parameters()).dtype is dtype  # biases are left
    return take_linears(block)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@torch.no_grad()
def test_layers_of_one_input_are_joined(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block, x = Block().to(dtype), torch.randn(3, 5, DIM).to(dtype)
    expected = block(x)
    linears = taken(block, dtype)
    join_linears(linears, lambda: block(x))
    calls = list[int]()
    run = NativeProducts.__call__

    def counted(self: NativeProducts, rows: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
        found = run(self, rows, dtype)
        calls.append(len(found))
        return found

    monkeypatch.setattr(NativeProducts, "__call__", counted)
    actual = block(x)
    assert calls == [3, 1]
    tolerance = 0.02 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    rows = [block(row[None]) for row in x.flatten(0, 1)]
    assert torch.equal(torch.cat(rows), actual.flatten(0, 1))


@torch.no_grad()
def test_an_input_that_changes_in_between_is_noticed() -> None:
    torch.manual_seed(0)
    block, x = Block(changes_input=True), torch.randn(4, DIM)
    expected = block(x.clone())
    linears = taken(block, torch.float32)
    join_linears(linears, lambda: block(x.clone()))
    torch.testing.assert_close(block(x.clone()), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_that_others_call_alone() -> None:
    """What was computed ahead for one input is not given out for another."""
    torch.manual_seed(0)
    block, x = Block(), torch.randn(4, DIM)
    join_linears(taken(block, torch.float32), lambda: block(x))
    expected = block.third(x + 1)
    block.first(x)
    assert torch.equal(block.third(x + 1), expected)


class Doubled(LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(hidden_states)


@torch.no_grad()
def test_norms_are_told_by_what_they_give() -> None:
    torch.manual_seed(0)
    norms = nn.ModuleList(
        [
            *(LlamaRMSNorm(DIM, eps=1e-4), GemmaRMSNorm(DIM, eps=1e-4)),
            *(Doubled(DIM), LlamaRMSNorm(DIM + 8), nn.LayerNorm(DIM, bias=False), nn.RMSNorm(DIM)),
        ]
    )
    for norm in norms:
        norm.get_parameter("weight").normal_()
    x = torch.randn(2, 3, DIM) * 0.02
    expected = [norm(x) for norm in norms[:2]]
    assert take_norms(norms) == 2
    for norm, found in zip(norms[:2], expected, strict=True):
        assert isinstance(norm.forward, RowNorm)
        torch.testing.assert_close(norm(x), found, rtol=1e-5, atol=1e-6)
        assert norm(x.double()).dtype is torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [16, 80, 576])
def test_norm(dtype: torch.dtype, dim: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 3, dim).to(dtype), torch.randn(dim)
    exact = x.double()
    exact = exact * (exact.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    norm = NativeNorm(weight, 1e-5)
    actual = norm(x.transpose(0, 1)).transpose(0, 1)
    assert actual.dtype is dtype
    tolerance = 2**-8 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=1e-6)
    with pytest.raises(ValueError, match=f"a weight of {dim}"):
        norm(x[..., :8])


def test_products_of_several_weights_are_those_of_each() -> None:
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(9, 6).to(dtype)
        linears = [NativeLinear(torch.randn(n, 6).to(dtype), 2) for n in (70, 5, 130)]
        for to in (torch.bfloat16, torch.float32):
            found = NativeProducts(linears)(x, to)
            for linear, y in zip(linears, found, strict=True):
                assert torch.equal(y, linear(x).to(to))


def test_a_models_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four layers queries, keys and values, then gates and ups; all norms."""
    reference_model(FAMILIES["granite"]).save_pretrained(tmp_path)
    linears, num_norms = list[RowLinear](), list[int]()

    def noting_linears(model: nn.Module) -> dict[nn.Module, RowLinear]:
        found = take_linears(model)
        linears.extend(found.values())
        return found

    monkeypatch.setattr(loading, "take_linears", noting_linears)
    monkeypatch.setattr(loading, "take_norms", lambda of: num_norms.append(take_norms(of)))
    our_model(tmp_path, torch.float32)
    joined = [linear.num_joined for linear in linears if linear.num_joined > 1]
    assert joined == [3, 2] * 4
    assert num_norms == [9]
