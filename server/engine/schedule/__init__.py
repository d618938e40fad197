"""Who runs in a step, with which blocks: sequences, the block pool, the scheduler, and the plan and
result in which this half meets the tensors. Pure: ints only, no torch, numpy or event loop."""
