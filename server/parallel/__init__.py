"""Tensor parallelism: one model over several processes, each with a shard of every layer."""
