"""Stage 3 of training a draft: the draft while it learns, its loss, the loop, its checkpoints."""
