"""Models whose code is transformers': any causal language model of it whose attention goes through
its attention interface, over our paged KV cache.

    config.py      what a checkpoint is, and whether it can be served: sizes, layers, refusals
    probe.py       what each layer's attention does, found out by running the model without weights
    longrope.py    rotary embeddings that depend on a text's length
    split.py       a model in two parts: decoder and head
    attention.py   the attention function that transformers' layers call
    row_weights.py weights that the native CPU kernels multiply
    native_modules.py  modules whose work they do in fewer calls
    model.py       the parameters, and the model that runs
"""
