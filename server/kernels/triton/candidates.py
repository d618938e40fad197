"""The draft's most probable tokens of each row and their softmax mass, in one pass over the logits.

grid 1: (rows, chunks of BLOCK logits)   a chunk's best tokens, its maximum and its sum
grid 2: (rows,)                          the best of the chunks' best; probabilities
"""

# Triton's language is no Python: its functions' parameters are pointers and numbers of the launch.
# pyright: reportMissingParameterType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl

_BLOCK = 2048


def top_candidates(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Like the reference's; of equal logits the lower index comes first."""
    logits = logits.contiguous()
    num_rows, vocab = logits.shape
    num_chunks, device = -(-vocab // _BLOCK), logits.device
    values = torch.empty((num_rows, num_chunks, count), dtype=torch.float32, device=device)
    ids = torch.empty((num_rows, num_chunks, count), dtype=torch.int64, device=device)
    masses = torch.empty((num_rows, num_chunks, 2), dtype=torch.float32, device=device)
    _best_of_chunk[(num_rows, num_chunks)](
        logits, values, ids, masses, vocab, COUNT=count, BLOCK=_BLOCK, num_warps=4
    )
    best = torch.empty((num_rows, count), dtype=torch.int64, device=device)
    confidences = torch.empty((num_rows, count), dtype=torch.float32, device=device)
    _best_of_row[(num_rows,)](
        values, ids, masses, best, confidences, num_chunks, COUNT=count,
        BLOCK=triton.next_power_of_2(num_chunks * count),
        CHUNKS=triton.next_power_of_2(num_chunks), num_warps=4,
    )  # fmt: skip
    return best, confidences


@triton.jit
def _best_of_chunk(logits, values, ids, masses, vocab, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    row, chunk, num_chunks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    token = chunk * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
    value = value.to(tl.float32)
    value = tl.where(value == value, value, float("-inf"))  # NaN would win with any index
    most = tl.max(value, 0)
    at = row * num_chunks + chunk
    tl.store(masses + at * 2, most)
    base = tl.where(most == float("-inf"), 0.0, most)  # avoids NaN from -inf - -inf
    tl.store(masses + at * 2 + 1, tl.sum(tl.exp(value - base), 0))
    for i in range(COUNT):
        best = tl.argmax(value, 0)
        tl.store(values + at * COUNT + i, tl.max(value, 0))
        tl.store(ids + at * COUNT + i, (chunk * BLOCK + best).to(tl.int64))
        value = tl.where(token == chunk * BLOCK + best, float("-inf"), value)


@triton.jit
def _best_of_row(
    values, ids, masses, best, confidences, num_chunks,
    COUNT: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    chunk, entry = tl.arange(0, CHUNKS), tl.arange(0, BLOCK)
    at = (row * num_chunks + chunk) * 2
    tops = tl.load(masses + at, mask=chunk < num_chunks, other=float("-inf"))
    sums = tl.load(masses + at + 1, mask=chunk < num_chunks, other=0.0)
    most = tl.max(tops, 0)
    mass = most + tl.log(tl.sum(sums * tl.exp(tops - most), 0))
    is_entry = entry < num_chunks * COUNT
    start = row * num_chunks * COUNT
    value = tl.load(values + start + entry, mask=is_entry, other=float("-inf"))
    for i in range(COUNT):
        which = tl.argmax(value, 0)
        tl.store(confidences + row * COUNT + i, tl.exp(tl.max(value, 0) - mass))
        tl.store(best + row * COUNT + i, tl.load(ids + start + which))
        value = tl.where(entry == which, float("-inf"), value)
