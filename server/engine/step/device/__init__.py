"""The whole speculative step on the device: draft, expand, verify, accept, commit without the host
in between, captured in CUDA graphs.

    host    launch k+1      read k        schedule k+1   launch k+2      read k+1   …
    device  [ step k      ][ step k+1                  ][ step k+2                ] …

What a step needs of the one before it stays on the device (`seats.py`), so the next step is
launched before the last one's outcome is known. Where the outcome makes it void (a request ended,
its blocks are gone), its results are dropped: tokens are a function of seed and position, so doing
a step again gives the same ones.

    tiers    depth and nodes of a step, and which pays            pure
    seats    what the device keeps of each sequence
    expand   from candidates to trees (CaPE, auto)                tensors, no host
    draw     a token at every node                                tensors, no host
    walk     down the trees                                       tensors, no host
    step     these in a row, with both models
    capture  a step's graphs
    outcome  from numbers that came back to results
    runner   decides which sequences go this way

Prompts, and requests that need the host within a step (penalties, bias, logprobs, grammars, beams),
go through `engine/step/host/runner.py`.
"""
