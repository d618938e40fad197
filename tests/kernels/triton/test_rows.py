"""Norms, SwiGLU, rotary with KV write, moves of KV: against the reference, with odd sizes."""

import pytest
import torch

from server.kernels import reference
from server.kernels.tree import LayerCache
from server.kernels.triton import gather, rows
from tests.kernels.triton.device import DEVICE, poisoned, randn

DTYPES = [torch.float32, torch.bfloat16]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    loose = found.dtype is torch.bfloat16
    tolerance = 4e-2 if loose else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (3, 576), (2, 3, 8)])
def test_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = randn(*shape, dtype=dtype), randn(shape[-1], seed=1, dtype=dtype)
    close(rows.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (3, 576)])
def test_norm_of_a_sum(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, update = randn(*shape, dtype=dtype), randn(*shape, seed=2, dtype=dtype)
    weight, before = randn(shape[-1], seed=1, dtype=dtype), x.clone()
    total, normed = rows.add_rms_norm(x, update, weight, 1e-5)
    close(total, x + update)
    assert torch.equal(x, before)
    close(normed, reference.rms_norm(x + update, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 33, 1500])
def test_silu_mul(dim: int, dtype: torch.dtype) -> None:
    gate_up = randn(3, 2 * dim, dtype=dtype)
    close(rows.silu_mul(gate_up), reference.silu_mul(gate_up))


def cos_sin(num_rows: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = randn(num_rows, 1, head_dim // 2, seed=5)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("head_dim", [2, 20, 96])
def test_rotary(head_dim: int) -> None:
    x = randn(5, 3, head_dim)
    close(rows.rotary(x, *cos_sin(5, head_dim)), reference.rotary(x, *cos_sin(5, head_dim)))


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (3, 3), (0, 2)])
@pytest.mark.parametrize("head_dim", [2, 20, 64])
def test_rotation_writes_keys_and_values_and_nothing_else(
    heads: int, kv_heads: int, head_dim: int
) -> None:
    """The input is a view of a wider tensor, as in the model; the pool's first and last slot are
    written."""
    num_rows, block_size = 5, 4
    wide = randn(num_rows, heads + 2 * kv_heads, head_dim)
    rotated, values = wide.split((heads + kv_heads, kv_heads), dim=1)
    slots = torch.tensor([0, 15, 3, 7, 8], device=DEVICE)
    found = LayerCache(*(poisoned(4, block_size, kv_heads, head_dim) for _ in range(2)))
    expected = LayerCache(*(pool.clone() for pool in found))
    angles = cos_sin(num_rows, head_dim)
    query = rows.rotate_and_write(rotated, values, *angles, found, slots)
    wanted = reference.rotate_and_write(rotated, values, *angles, expected, slots)
    close(query, wanted)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("num_moves", [1, 5, 64, 130])
def test_moves_of_paths(num_moves: int) -> None:
    """Every node of a path goes one slot down: each slot but the ends' is source and target."""
    pool = randn(3, 2, 10, 16, 3, 7)
    caches = [LayerCache(layer[0], layer[1]) for layer in pool]
    sources = torch.arange(2, 2 + num_moves, device=DEVICE)
    expected = pool.clone()
    reference.copy_kv([LayerCache(p[0], p[1]) for p in expected], sources, sources - 1)
    gather.copy_kv(caches, sources, sources - 1)
    assert torch.equal(pool, expected)


def test_up_to_64_moves_overlap_in_any_way() -> None:
    pool = randn(1, 2, 4, 16, 1, 40)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    before = pool.clone()
    gather.copy_kv([LayerCache(pool[0, 0], pool[0, 1])], order, torch.arange(64, device=DEVICE))
    assert torch.equal(pool.view(2, 64, 40), before.view(2, 64, 40)[:, order])
