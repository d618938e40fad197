"""Models whose code is transformers': any causal language model of it whose attention goes through
its attention interface, over our paged KV cache.

    config.py      what a checkpoint is, and whether it can be served: sizes, layers, refusals
    probe.py       what each layer's attention does, found out by running the model without weights
    attention.py   the attention function that transformers' layers call
    model.py       the parameters, and the model that runs
"""
