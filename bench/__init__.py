"""Benchmarks. Each prints the machine's limit, what the server reaches, then one line of JSON."""
