import pytest

from segue.core.batch import EncoderInput
from segue.engine.block_pool import BlockPool
from segue.engine.prefix_cache import PrefixCache
from segue.engine.sequence import EncoderBlocks


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache()


def digest_of(block_id: int) -> bytes:
    return f"digest {block_id}".encode()


def test_blocks_are_reused_in_lru_order_and_a_prefix_from_its_end(cache: PrefixCache) -> None:
    pool = BlockPool(4, cache)
    first, second = pool.take(2), pool.take(2)
    for block_id in (*first, *second):
        cache.register(block_id, digest_of(block_id))
    pool.release(second)
    pool.release(first)
    assert pool.take(4) == [second[1], second[0], first[1], first[0]]


def test_blocks_without_content_are_reused_first(cache: PrefixCache) -> None:
    pool = BlockPool(3, cache)
    cached, empty, _ = pool.take(3)
    cache.register(cached, digest_of(cached))
    pool.release([cached])
    pool.release([empty])
    assert pool.take(1) == [empty]


def test_a_free_block_is_hittable_until_it_is_reused(cache: PrefixCache) -> None:
    pool = BlockPool(2, cache)
    a, b = pool.take(2)
    cache.register(a, digest_of(a))
    cache.register(b, digest_of(b))
    pool.release([a, b])
    assert cache.find([digest_of(a)]) == [a]
    pool.acquire([a])
    assert pool.num_free == 1
    assert pool.take(1) == [b]
    assert cache.find([digest_of(b)]) == []
    pool.check_invariants({a: 1, b: 1})


def test_a_hit_makes_a_block_recently_used(cache: PrefixCache) -> None:
    pool = BlockPool(2, cache)
    a, b = pool.take(2)
    for block_id in (a, b):
        cache.register(block_id, digest_of(block_id))
        pool.release([block_id])
    pool.acquire([a])
    pool.release([a])
    assert pool.take(1) == [b]


def test_a_shared_block_is_free_when_its_last_user_leaves(cache: PrefixCache) -> None:
    pool = BlockPool(1, cache)
    (a,) = pool.take(1)
    cache.register(a, digest_of(a))
    pool.acquire([a])
    pool.release([a])
    assert not pool.is_free(a)
    pool.release([a])
    assert pool.is_free(a)


def test_reusing_one_block_of_an_encoder_entry_makes_the_others_worthless(cache: PrefixCache) -> None:
    pool = BlockPool(5, cache)
    table = pool.take(2)
    other = pool.take(3)
    cache.register_encoder(EncoderBlocks(table, EncoderInput(token_ids=[1], block_table=table, run=False), b"e"))
    for block_id in other:
        cache.register(block_id, digest_of(block_id))
    pool.release(table)
    pool.release(other)
    assert pool.take(1) == [table[1]]
    assert cache.find_encoder(b"e") is None
    assert pool.take(1) == [table[0]]
    assert cache.find(map(digest_of, other)) == other


def test_a_wrong_count_is_noticed(cache: PrefixCache) -> None:
    pool = BlockPool(2, cache)
    (a,) = pool.take(1)
    pool.check_invariants({a: 1})
    for wrong in ({}, {a: 2}, {a: 1, 1 - a: 1}, {a: 1, 5: 1}):
        with pytest.raises(AssertionError):
            pool.check_invariants(wrong)
    pool.release([a])
    with pytest.raises(AssertionError):
        pool.release([a])
