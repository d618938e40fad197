"""Tries a compiled grammar out before the engine follows it: what does a token take?

The engine ends a request whose grammar takes too much (`budget.py`), but can't interrupt a call of
the matcher: one that is dear from the beginning must never reach it.
"""

import random
import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xgrammar

MAX_SECONDS = 0.15
"""Of a call; ordinary ones take a thousandth of it."""
_WALKS = ("longest", "same", "any", "any")
_TOKENS = 12
"""Of a walk."""
_ALL_SECONDS = 0.5


def dearest_call(
    compiled: "xgrammar.CompiledGrammar", lengths: NDArray[np.intp], eos_id: int
) -> float:
    """Seconds of the processor that a call of the matcher took at most, on some ways through it.

    Args:
        lengths: [vocab] bytes of each token.
    """
    from xgrammar import GrammarMatcher

    rng = random.Random(0)
    started, dearest = time.thread_time(), 0.0
    for way in _WALKS:
        matcher = GrammarMatcher(compiled, override_stop_tokens=[eos_id])
        bits = np.zeros((1, -(-len(lengths) // 32)), dtype=np.int32)
        last = -1
        for _ in range(_TOKENS):
            before = time.thread_time()
            matcher.fill_next_token_bitmask(bits)
            after = time.thread_time()
            last = _next(way, bits, lengths, eos_id, last, rng)
            if last < 0:
                break
            resumed = time.thread_time()
            matcher.accept_token(last)
            dearest = max(dearest, after - before, time.thread_time() - resumed)
            if dearest > MAX_SECONDS or time.thread_time() - started > _ALL_SECONDS:
                return dearest
    return dearest


def _next(
    way: str,
    bits: NDArray[np.int32],
    lengths: NDArray[np.intp],
    eos_id: int,
    last: int,
    rng: random.Random,
) -> int:
    """One of the allowed tokens; -1 where the text ends."""
    unpacked = np.unpackbits(bits[0].view(np.uint8), bitorder="little", count=len(lengths))
    allowed = np.flatnonzero(unpacked)
    allowed = allowed[(allowed != eos_id) & (lengths[allowed] > 0)]
    if not len(allowed):
        return -1
    if way == "same" and last in allowed:
        return last
    if way == "longest":
        return int(allowed[lengths[allowed].argmax()])
    return int(allowed[rng.randrange(len(allowed))])
