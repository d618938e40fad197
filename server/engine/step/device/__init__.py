"""The whole speculative step on the device: draft, expand, verify, accept, commit without the host
in between, captured in CUDA graphs.

    host    launch k+1      read k        schedule k+1   launch k+2      read k+1   …
    device  [ step k      ][ step k+1                  ][ step k+2                ] …

What a step needs of the one before it stays on the device (`seats.py`), so the next step is
launched before the last one's outcome is known. Where the outcome makes it void (a request ended,
its blocks are gone), its results are dropped: tokens are a function of seed and position, so doing
a step again gives the same ones.

    seats      what the device keeps of each sequence
    draft      chains of all sequences                            tensors, no host
    expand     from candidates to trees (CaPE, auto)              tensors, no host
    accept     a token drawn at every node, walks down the trees  tensors, no host
    step       all of a step in a row, with both models; the target's forward (verify), and the
               moves of accepted KV (commit), stand here too
    sizes      the shapes of steps; which tier pays is `speculation/tiers.py`'s
    capture    a step's graphs
    results    from numbers that came back to results
    stats      what is learned from them
    runner     decides which sequences go this way

Prompts, and requests that need the host within a step (penalties, bias, logprobs, grammars, beams),
go through `engine/step/host/runner.py`.
"""
