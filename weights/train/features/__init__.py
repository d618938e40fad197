"""Stage 2 of training a draft: what it needs of the target for its text, computed once and kept."""
