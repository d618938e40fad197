"""Draws a token for each row of logits: the largest, or by inverse CDF and a counter-based uniform.

    grid: (rows,)   one program walks a row's vocabulary in blocks, in order of token ids
                    greedy:  maximum, first of equals
                    drawn:   1. maximum  2. total mass  3. first id whose cumulative mass exceeds
                             uniform x total

The uniform is `kernels/uniform.py`'s, SplitMix64 of (seed, position), bit for bit. Sums are
double: in float32 a large vocabulary's would be off by 1e-4. What top-k, top-p, min-p or a grammar
leave out comes as -inf.
"""

# Triton's language is no Python: its functions' parameters are pointers and numbers of the launch.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl

_BLOCK = 2048
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Like the reference's."""
    logits = logits.contiguous()
    out = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    _argmax[(len(logits),)](logits, out, logits.shape[1], BLOCK=_BLOCK, num_warps=8)
    return out


def draw(
    logits: torch.Tensor,
    temperatures: torch.Tensor,
    keep: torch.Tensor | None,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Like the reference's, up to the rounding of probabilities."""
    if keep is not None:
        logits = logits.masked_fill(~keep, float("-inf"))
    logits = logits.contiguous()
    out = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    _draw[(len(logits),)](
        logits, temperatures, seeds, positions, out, logits.shape[1], BLOCK=_BLOCK, num_warps=8
    )
    return out


@triton.jit
def _argmax(logits, out, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    most = tl.full([], float("-inf"), tl.float32)
    best = tl.full([], 0, tl.int64)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        value = value.to(tl.float32)
        top = tl.max(value, 0)
        best = tl.where(top > most, (start + tl.argmax(value, 0)).to(tl.int64), best)
        most = tl.maximum(most, top)
    tl.store(out + row, best)


@triton.jit
def _mixed(state):
    """SplitMix64's output in a state, uint64."""
    state = state + tl.full([1], _GOLDEN, tl.uint64)
    state = (state ^ (state >> 30)) * tl.full([1], _MIX_1, tl.uint64)
    state = (state ^ (state >> 27)) * tl.full([1], _MIX_2, tl.uint64)
    return state ^ (state >> 31)


@triton.jit
def _draw(logits, temperatures, seeds, positions, out, vocab, BLOCK: tl.constexpr):
    row, one = tl.program_id(0).to(tl.int64), tl.arange(0, 1)
    temperature = tl.load(temperatures + row)
    seed = tl.load(seeds + row + one).to(tl.uint64)
    position = tl.load(positions + row + one).to(tl.uint64)
    bits = _mixed(_mixed(seed) + position * tl.full([1], _GOLDEN, tl.uint64)) >> 11
    uniform = tl.sum(bits.to(tl.float64), 0) * 1.1102230246251565e-16  # 2^-53

    most = tl.full([], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        most = tl.maximum(most, tl.max(value / temperature, 0))
    total = tl.zeros([], tl.float64)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        total += tl.sum(tl.exp(value / temperature - most).to(tl.float64), 0)

    target = uniform * total
    before = tl.zeros([], tl.float64)
    # Rounding may put the target at the total itself: the last token that can be drawn is taken.
    found = tl.full([], -1, tl.int64)
    last = tl.full([], 0, tl.int64)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        mass = tl.exp(value / temperature - most).to(tl.float64)
        above = (before + tl.cumsum(mass, 0) > target) & (mass > 0.0)
        first = tl.min(tl.where(above, token, vocab), 0).to(tl.int64)
        found = tl.where((found < 0) & (first < vocab), first, found)
        last = tl.maximum(last, tl.max(tl.where(mass > 0.0, token, 0), 0).to(tl.int64))
        before += tl.sum(mass, 0)
    tl.store(out + row, tl.where(found < 0, last, found))
