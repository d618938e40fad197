"""Tries a compiled grammar out, to see what a token costs, before the engine follows it.

The engine ends a request whose grammar takes too much (`budget.py`), but can't interrupt a call of
the matcher: a grammar that is costly from the beginning must never reach it.
"""

import random
import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xgrammar

MAX_SECONDS = 0.15
"""Most CPU time of a call; ordinary ones take a thousandth of it."""
_WAYS = ("longest", "same", "any")
_TOKENS = 12
"""Length of a walk through a grammar that compiles quickly, of which no call can be costly."""
_MORE_TOKENS = 200
_QUICK_SECONDS = 0.3
_LEAST_SECONDS = 0.5


def dearest_call(
    compiled: "xgrammar.CompiledGrammar",
    lengths: NDArray[np.intp],
    eos_id: int,
    compile_seconds: float,
) -> float:
    """CPU time of the costliest call of the matcher on some ways through the grammar.

    A call takes at most about a third of the time that compiling took, which makes all masks. So a
    grammar that took long to compile is tried for as long.

    Args:
        lengths: [vocab] bytes of each token.
    """
    rng = random.Random(0)
    is_quick = compile_seconds < _QUICK_SECONDS
    end = time.thread_time() + max(compile_seconds, _LEAST_SECONDS)
    dearest, num_walks = 0.0, 0
    while dearest <= MAX_SECONDS and time.thread_time() < end:
        way = _WAYS[num_walks % len(_WAYS)]
        most = _TOKENS if is_quick else _MORE_TOKENS
        dearest = max(dearest, _walk(compiled, lengths, eos_id, way, most, end, rng))
        num_walks += 1
        if is_quick and num_walks > len(_WAYS):
            break
    return dearest


def _walk(
    compiled: "xgrammar.CompiledGrammar",
    lengths: NDArray[np.intp],
    eos_id: int,
    way: str,
    most: int,
    end: float,
    rng: random.Random,
) -> float:
    """CPU time of the costliest call on a way of at most so many tokens."""
    from xgrammar import GrammarMatcher

    matcher = GrammarMatcher(compiled, override_stop_tokens=[eos_id])
    bits = np.zeros((1, -(-len(lengths) // 32)), dtype=np.int32)
    dearest, last = 0.0, -1
    for _ in range(most):
        started = time.thread_time()
        matcher.fill_next_token_bitmask(bits)
        filled = time.thread_time()
        last = _next(way, bits, lengths, eos_id, last, rng)
        resumed = time.thread_time()
        if last >= 0:
            matcher.accept_token(last)
        dearest = max(dearest, filled - started, time.thread_time() - resumed)
        if last < 0 or dearest > MAX_SECONDS or resumed > end:
            break
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
