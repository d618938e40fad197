"""The block pool: unit tests of reuse by content, and random use that must never corrupt it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.schedule.blocks import ROOT_HASH, BlockPool, chain_hash, root_hash
from server.engine.types import BlockId


def test_hash_depends_on_everything_before() -> None:
    first, other = chain_hash(ROOT_HASH, [1, 2]), chain_hash(ROOT_HASH, [2, 1])
    assert first != other
    assert chain_hash(first, [3, 4]) != chain_hash(other, [3, 4])
    assert chain_hash(first, [3, 4]) == chain_hash(chain_hash(ROOT_HASH, [1, 2]), [3, 4])
    assert chain_hash(ROOT_HASH, [1, 256]) != chain_hash(ROOT_HASH, [257, 0])


def test_a_released_block_is_found_by_content_until_it_is_reused() -> None:
    pool = BlockPool(2, prefix_caching=True)
    block = pool.allocate()
    pool.publish(block, b"a")
    pool.release([block])
    assert pool.num_free == 2
    assert pool.acquire_cached(b"a") == block
    pool.check_integrity([[block]])
    pool.release([block])
    others = [pool.allocate(), pool.allocate()]
    assert pool.acquire_cached(b"a") is None
    pool.check_integrity([others])


def test_blocks_without_content_are_reused_before_cached_ones() -> None:
    pool = BlockPool(3, prefix_caching=True)
    cached, plain = pool.allocate(), pool.allocate()
    pool.publish(cached, b"a")
    pool.release([cached])
    pool.release([plain])
    assert {pool.allocate(), pool.allocate()} == {plain, BlockId(2)}
    assert pool.acquire_cached(b"a") == cached


def test_the_least_recently_used_content_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(4, prefix_caching=True)
    old = [pool.allocate(), pool.allocate()]
    new = [pool.allocate(), pool.allocate()]
    for block, content in zip(old + new, (b"o0", b"o1", b"n0", b"n1"), strict=True):
        pool.publish(block, content)
    pool.release(old)
    pool.release(new)
    assert [pool.allocate() for _ in range(4)] == [old[1], old[0], new[1], new[0]]


def test_shared_blocks_stay_held_until_the_last_release() -> None:
    pool = BlockPool(1, prefix_caching=True)
    block = pool.allocate()
    pool.publish(block, b"a")
    assert pool.acquire_cached(b"a") == block
    pool.release([block])
    assert pool.num_free == 0
    pool.release([block])
    assert pool.num_free == 1
    with pytest.raises(RuntimeError, match="released while free"):
        pool.release([block])


def test_of_equal_contents_the_first_is_found() -> None:
    pool = BlockPool(2, prefix_caching=True)
    first, second = pool.allocate(), pool.allocate()
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    assert pool.acquire_cached(b"a") == first
    pool.release([first, first, second])
    pool.check_integrity()


def test_nothing_is_found_with_caching_off() -> None:
    pool = BlockPool(1, prefix_caching=False)
    block = pool.allocate()
    pool.publish(block, b"a")
    assert pool.acquire_cached(b"a") is None


def test_allocating_from_an_empty_pool_raises() -> None:
    pool = BlockPool(1, prefix_caching=True)
    pool.allocate()
    with pytest.raises(IndexError, match="no free KV block"):
        pool.allocate()


def test_integrity_check_sees_leaks_and_foreign_tables() -> None:
    pool = BlockPool(2, prefix_caching=True)
    block = pool.allocate()
    with pytest.raises(RuntimeError, match="reference counts"):
        pool.check_integrity()
    with pytest.raises(RuntimeError, match="reference counts"):
        pool.check_integrity([[block], [block]])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_use_keeps_the_books(data: st.DataObject) -> None:
    """Tables grow, share prefixes and go, in any order; writers never meet in one block."""
    pool = BlockPool(data.draw(st.integers(1, 8)), prefix_caching=True)
    tables: list[list[BlockId]] = []
    writers: set[BlockId] = set()
    contents: dict[BlockId, bytes] = {}
    for step in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["new", "publish", "share", "release"])):
            case "new" if pool.num_free:
                block = pool.allocate()
                assert block not in {b for table in tables for b in table}
                tables.append([block])
                writers.add(block)
                contents.pop(block, None)
            case "publish" if writers:
                block = data.draw(st.sampled_from(sorted(writers)))
                contents[block] = bytes([step])
                pool.publish(block, contents[block])
                writers.discard(block)
            case "share" if contents:
                block, content = data.draw(st.sampled_from(sorted(contents.items())))
                assert pool.acquire_cached(content) == block
                assert block not in writers
                tables.append([block])
            case "release" if tables:
                table = tables.pop(data.draw(st.integers(0, len(tables) - 1)))
                pool.release(table)
                writers.difference_update(table)
            case _:
                pass
        pool.check_integrity(tables)
        assert pool.num_free == pool.num_blocks - len({b for table in tables for b in table})


def test_held_blocks_of_a_prefix() -> None:
    """Leading ones that somebody holds: neither those after a gap, nor free ones with content."""
    pool = BlockPool(4, prefix_caching=True)
    contents = [bytes([number]) for number in range(3)]
    blocks = [pool.allocate() for _ in contents]
    for block_id, content in zip(blocks, contents, strict=True):
        pool.publish(block_id, content)
    assert pool.num_held(contents) == 3
    pool.release(blocks[1:2])
    assert pool.num_held(contents) == 1
    assert pool.num_held(contents[2:]) == 1
    assert pool.num_held([b"other", *contents]) == 0


def test_salted_chains_have_nothing_in_common() -> None:
    roots = [root_hash(salt) for salt in (None, "a", "b", "ab", "\x00")]
    assert roots[0] == ROOT_HASH
    assert len({chain_hash(root, [1, 2, 3, 4]) for root in roots}) == len(roots)
