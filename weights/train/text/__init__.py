"""Stage 1 of training a draft: the text it learns from, written by the target or given."""
