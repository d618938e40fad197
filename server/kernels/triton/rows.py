"""A layer's operations on single rows, between products: norms, SwiGLU, rotary embedding with KV
write.

grid: (rows,) for norms         one program per row: all of it in registers
grid: (rows, columns)           SwiGLU: BLOCK columns a program
grid: (rows, heads)             rotary and KV write: one head of q, k or v a program
"""

# Triton's language is no Python: its functions' parameters are pointers and numbers of the launch.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl

from server.kernels.tree import LayerCache


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Like the reference's."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(rows)
    _launch_norm(rows, None, weight, eps, None, out)
    return out.view(x.shape)


def add_rms_norm(
    x: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like the reference's; one pass over the row."""
    x = x.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _launch_norm(x, update.contiguous(), weight, eps, total, normed)
    return total, normed


def _launch_norm(
    x: torch.Tensor,
    update: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    total: torch.Tensor | None,
    normed: torch.Tensor,
) -> None:
    num_rows, dim = x.shape
    has_update = update is not None
    _norm[(num_rows,)](
        x, update if has_update else x, weight, total if total is not None else normed, normed,
        x.stride(0), eps, DIM=dim, HAS_UPDATE=has_update, BLOCK=triton.next_power_of_2(dim),
        num_warps=4 if dim <= 4096 else 8,
    )  # fmt: skip


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Like the reference's."""
    num_rows, dim = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(num_rows, dim)
    block = min(1024, triton.next_power_of_2(dim))
    grid = (num_rows, triton.cdiv(dim, block))
    _silu_mul[grid](gate_up, out, gate_up.stride(0), DIM=dim, BLOCK=block, num_warps=4)
    return out


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Like the reference's; products in float32, one rounding."""
    num_rows, heads, head_dim = x.shape
    out = torch.empty((num_rows, heads, head_dim), dtype=x.dtype, device=x.device)
    _rotate_and_write[(num_rows, heads)](
        x, x.stride(0), x, 0, cos, sin, cos.stride(0), x, out, out, out,
        HEADS=heads, KV_HEADS=0, HEAD_DIM=head_dim,
        BLOCK=triton.next_power_of_2(head_dim // 2), num_warps=1,
    )  # fmt: skip
    return out


def rotate_and_write(
    rotated: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: LayerCache,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Like the reference's: one launch, keys and values go straight to their slots."""
    num_rows, kv_heads, head_dim = values.shape
    heads = rotated.shape[1] - kv_heads
    query = torch.empty((num_rows, heads, head_dim), dtype=rotated.dtype, device=rotated.device)
    _rotate_and_write[(num_rows, heads + 2 * kv_heads)](
        rotated, rotated.stride(0), values, values.stride(0), cos, sin, cos.stride(0), slots,
        query, cache.keys, cache.values,
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim,
        BLOCK=triton.next_power_of_2(head_dim // 2), num_warps=1,
    )  # fmt: skip
    return query


@triton.jit
def _norm(
    x, update, weight, total, normed, stride, eps,
    DIM: tl.constexpr, HAS_UPDATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = d < DIM
    value = tl.load(x + row * stride + d, mask=inside, other=0.0)
    if HAS_UPDATE:
        added = value.to(tl.float32) + tl.load(update + row * DIM + d, mask=inside, other=0.0).to(
            tl.float32
        )
        value = added.to(x.dtype.element_ty)  # rounded as in the residual stream
        tl.store(total + row * DIM + d, value, mask=inside)
    wide = value.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / DIM + eps)
    result = wide * scale * tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * DIM + d, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul(gate_up, out, stride, DIM: tl.constexpr, BLOCK: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < DIM
    gate = tl.load(gate_up + row * stride + d, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + DIM + d, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * DIM + d, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_and_write(
    rotated, rotated_stride, values, value_stride, cos, sin, cos_stride, slots,
    query, keys, cached_values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, head): q heads first, then k's, then v's, which are copied as they are."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HALF: tl.constexpr = HEAD_DIM // 2
    d = tl.arange(0, BLOCK)
    inside = d < HALF
    if KV_HEADS > 0:
        slot = tl.load(slots + row)
    else:
        slot = row * 0
    if head < HEADS + KV_HEADS:
        at = rotated + row * rotated_stride + head * HEAD_DIM + d
        first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
        angle = row * cos_stride + d
        cos_1 = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        sin_1 = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        cos_2 = tl.load(cos + angle + HALF, mask=inside, other=0.0).to(tl.float32)
        sin_2 = tl.load(sin + angle + HALF, mask=inside, other=0.0).to(tl.float32)
        turned_1 = (first * cos_1 - second * sin_1).to(query.dtype.element_ty)
        turned_2 = (second * cos_2 + first * sin_2).to(query.dtype.element_ty)
        if head < HEADS:
            to = query + (row * HEADS + head) * HEAD_DIM + d
        else:
            to = keys + (slot * KV_HEADS + head - HEADS) * HEAD_DIM + d
        tl.store(to, turned_1, mask=inside)
        tl.store(to + HALF, turned_2, mask=inside)
    else:
        kv_head = head - HEADS - KV_HEADS
        at = values + row * value_stride + kv_head * HEAD_DIM + d
        to = cached_values + (slot * KV_HEADS + kv_head) * HEAD_DIM + d
        tl.store(to, tl.load(at, mask=inside, other=0.0), mask=inside)
        tl.store(to + HALF, tl.load(at + HALF, mask=inside, other=0.0), mask=inside)
