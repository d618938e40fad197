"""From settings to what runs: the target, its draft, memory, costs, graphs, the other ranks."""
