"""What `auto` believes before it has learned, and how much it remembers: the same for steps of the
host (`prospect.py`, `auto.py`) and of the device (`tiers.py`). Pure."""

FIRST_CHANCE = 0.7
"""Chance of each drafted token before anything was drafted: optimistic, so that drafting is
tried."""
NUM_LATEST = 64
"""Latest chains by which drafting is judged."""
REFRESH_EVERY = 16
"""New chains, or choices, after which what follows from them is worked out again."""
LEAST_GAIN = 0.04
"""What speculating has to be expected to gain, as a share of what the sequences in question get by
plain decoding: expectations are too high by as much (docs/log.md, "What auto expects")."""
PROBE_EVERY = 32
"""Steps after which a draft is tried although it does not seem to pay: otherwise a bad stretch
would switch speculation off for ever."""
NEAR_PROBE_EVERY, NEAR_LOSS = 8, 0.05
"""The same, on the host alone, where some of what is drafted would pay and the whole is expected to
cost less than this share: there, trials are all that tells when text gets easier."""
