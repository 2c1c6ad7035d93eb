from segue.core.batch import EncoderInput
from segue.engine.prefix_cache import PrefixCache, block_digest, encoder_digest, root_digest
from segue.engine.sequence import EncoderBlocks


def make_encoder(digest: bytes, block_table: list[int]) -> EncoderBlocks:
    return EncoderBlocks(block_table, EncoderInput(token_ids=[1], block_table=block_table, run=False), digest)


def test_a_digest_depends_on_the_parent_the_tokens_and_their_order() -> None:
    root = root_digest("", None)
    digests = {
        block_digest(root, [1, 2]),
        block_digest(root, [2, 1]),
        block_digest(root, [1, 2, 0]),
        block_digest(root_digest("a", None), [1, 2]),
        block_digest(root_digest("", encoder_digest("", [1])), [1, 2]),
        block_digest(block_digest(root, [1, 2]), [1, 2]),
    }
    assert len(digests) == 6
    assert block_digest(root, [1, 2]) == block_digest(root_digest("", None), (1, 2))


def test_salt_and_encoder_do_not_run_into_each_other() -> None:
    encoder = encoder_digest("", [1])
    assert root_digest("x", encoder) != root_digest(encoder.decode("latin-1") + "x", None)
    assert encoder_digest("ab", [1]) != encoder_digest("b", [1])
    assert encoder_digest("", [1, 0]) != encoder_digest("\0" * 8, [1])
    assert len({root_digest("", None), root_digest("\0", None), root_digest("\ud800", None)}) == 3


def test_token_ids_of_any_vocabulary_size() -> None:
    assert block_digest(b"", [2**40]) != block_digest(b"", [2**41])


def test_find_stops_at_the_first_miss() -> None:
    cache = PrefixCache()
    for block_id, digest in [(4, b"a"), (7, b"b"), (9, b"d")]:
        cache.register(block_id, digest)
    assert cache.find([b"a", b"b", b"c", b"d"]) == [4, 7]
    assert cache.find([b"c", b"a"]) == []


def test_of_two_blocks_with_the_same_tokens_the_first_stays() -> None:
    cache = PrefixCache()
    assert cache.register(1, b"a")
    assert not cache.register(2, b"a")
    assert cache.find([b"a"]) == [1]
    assert not cache.holds(2)
    cache.check_invariants()


def test_a_forgotten_block_is_not_found() -> None:
    cache = PrefixCache()
    cache.register(1, b"a")
    assert list(cache.forget(1)) == [1]
    assert list(cache.forget(1)) == []
    assert cache.find([b"a"]) == []
    cache.check_invariants()


def test_an_encoder_entry_goes_as_a_whole() -> None:
    cache = PrefixCache()
    cache.register_encoder(make_encoder(b"e", [3, 4, 5]))
    cache.register(6, b"a")
    assert cache.find_encoder(b"e") is not None
    assert list(cache.forget(4)) == [3, 4, 5]
    assert cache.find_encoder(b"e") is None
    assert not any(map(cache.holds, [3, 4, 5]))
    assert cache.holds(6)
    cache.check_invariants()
