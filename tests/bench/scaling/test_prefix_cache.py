"""Two counts a chain say what the engine's own pool of blocks would hold."""

from copy import deepcopy

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scaling.prefix_cache import ChainId, Holders, PrefixCache, ReplicaIndex
from server.engine.schedule.blocks import ROOT_HASH, BlockHash, BlockPool, chain_hash
from server.engine.types import BlockId

SYSTEM_BLOCKS = 3
POOL = 14
CONVERSATIONS = 4
ONLY = ReplicaIndex(0)


def hashes(conversation: int, num_own: int) -> list[BlockHash]:
    """Of the blocks of one of two system prompts, and of the conversation's own behind them."""
    system = [(conversation % 2, place) for place in range(SYSTEM_BLOCKS)]
    own = [(10 + conversation, place) for place in range(num_own)]
    parent, found = ROOT_HASH, list[BlockHash]()
    for block in system + own:
        parent = chain_hash(parent, block)
        found.append(parent)
    return found


def acquire(pool: BlockPool, contents: list[BlockHash]) -> list[BlockId]:
    """Holds the leading blocks that are cached."""
    held = list[BlockId]()
    for content in contents:
        block = pool.acquire_cached(content)
        if block is None:
            break
        held.append(block)
    return held


def run_in(pool: BlockPool, contents: list[BlockHash]) -> None:
    """A sequence with these blocks: what is cached is held, the rest computed, all given back."""
    held = acquire(pool, contents)
    for content in contents[len(held) :]:
        held.append(pool.allocate())
        pool.publish(held[-1], content)
    pool.release(held)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, CONVERSATIONS - 1), st.integers(1, 4)), max_size=20))
def test_it_holds_what_the_engines_pool_holds(turns: list[tuple[int, int]]) -> None:
    """Conversations that grow, in any order, in a pool that is too small for all of them."""
    pool = BlockPool(POOL, prefix_caching=True)
    holders = Holders()
    cache = PrefixCache(POOL, ONLY, holders)
    lengths = [0] * CONVERSATIONS
    for conversation, grown in turns:
        if SYSTEM_BLOCKS + lengths[conversation] + grown > POOL:
            continue  # the engine would not take it
        lengths[conversation] += grown
        run_in(pool, hashes(conversation, lengths[conversation]))
        system, own = ChainId(conversation % 2), ChainId(10 + conversation)
        cache.use((system, SYSTEM_BLOCKS), (own, lengths[conversation]))
    for conversation, length in enumerate(lengths):
        system, own = ChainId(conversation % 2), ChainId(10 + conversation)
        counts = cache.count(system) + cache.count(own)
        assert counts == len(acquire(deepcopy(pool), hashes(conversation, length)))
        assert holders.of(own).get(ONLY, 0) == cache.count(own)
        assert holders.of(system).get(ONLY, 0) == cache.count(system)


def test_a_conversation_goes_before_its_system_prompt_and_from_its_end() -> None:
    cache = PrefixCache(10, ONLY, Holders())
    cache.use((ChainId(0), 4), (ChainId(10), 4))
    cache.use((ChainId(0), 4), (ChainId(11), 4))
    assert [cache.count(ChainId(each)) for each in (0, 10, 11)] == [4, 2, 4]
    cache.use((ChainId(1), 3), (ChainId(12), 3))
    assert [cache.count(ChainId(each)) for each in (0, 10, 11, 1, 12)] == [4, 0, 0, 3, 3]
