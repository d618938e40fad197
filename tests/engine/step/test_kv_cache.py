"""The pool's memory: nothing until it is written, and then little more than what is written."""

import psutil
import torch

from server.engine.step.kv_cache import CacheShape, allocate_kv, copy_kv

CPU = torch.device("cpu")
MEGABYTE = 2**20


def test_an_unused_pool_costs_no_memory_and_a_used_one_what_is_used() -> None:
    """One token in each of 30 layers: at most a page for its keys and one for its values, of the
    system's own page size. In pages of 2 MB it would be 120 MB."""
    process = psutil.Process()
    before = process.memory_info().rss
    caches = allocate_kv(CacheShape(30, 3, 64, torch.bfloat16), 1500, 16, CPU)
    for cache in caches:
        cache.keys[0, 0] = 1.0
        cache.values[0, 0] = 2.0
    assert process.memory_info().rss - before < 16 * MEGABYTE
    assert caches[29].keys[0, 0].eq(1.0).all()
    assert caches[29].values[0, 0].eq(2.0).all()


def test_it_begins_as_zeros_in_every_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        caches = allocate_kv(CacheShape(2, 2, 4, dtype), 5, 3, CPU)
        assert len(caches) == 2
        for cache in caches:
            assert cache.keys.shape == cache.values.shape == (5, 3, 2, 4)
            assert cache.keys.dtype == dtype
            assert not cache.keys.any()
            assert not cache.values.any()


def test_layers_of_several_sizes() -> None:
    """Each has its own memory; tokens are moved in all of them."""
    shape = CacheShape(3, 2, 4, torch.float32, ((2, 4), (1, 8), (2, 4)))
    assert shape.bytes_per_token == 2 * (8 + 8 + 8) * 4
    caches = allocate_kv(shape, 5, 3, CPU)
    assert [tuple(cache.keys.shape) for cache in caches] == [
        (5, 3, 2, 4),
        (5, 3, 1, 8),
        (5, 3, 2, 4),
    ]
    for layer, cache in enumerate(caches):
        cache.keys[1, 2] = 10.0 + layer
        cache.values[1, 2] = 20.0 + layer
    copy_kv(caches, [1 * 3 + 2], [4 * 3 + 1])
    for layer, cache in enumerate(caches):
        assert cache.keys[4, 1].eq(10.0 + layer).all()
        assert cache.values[4, 1].eq(20.0 + layer).all()
