"""Structured output: what an answer may be, as masks over the vocabulary."""
