"""What is proposed and why: token trees, CaPE's table, the `auto` policy with its calibration and
costs, and the tiers of device steps. Pure: ints and floats, no torch, numpy or event loop."""
