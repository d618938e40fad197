"""Token ids ↔ text: tokenizer, chat template, incremental detokenisation, stop strings.

Knows neither tensors, nor the engine, nor HTTP.
"""
