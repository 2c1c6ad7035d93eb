from collections.abc import Sequence as Seq

from fakes import make_request

from segue.engine.block_manager import BlockManager
from segue.engine.sequence import Sequence


def make_sequence(
    seq_id: int, prompt: Seq[int], *, encoder: Seq[int] | None = None, salt: str = "", caching: bool = True
) -> Sequence:
    return Sequence.from_request(
        seq_id, make_request(seq_id, prompt, encoder=encoder, salt=salt), enable_caching=caching
    )


def admit(blocks: BlockManager, seq: Sequence) -> None:
    """All of the sequence's tokens in one step."""
    blocks.admit(seq, blocks.match(seq))
    assert blocks.grow(seq, len(seq.token_ids))


def test_a_prompt_takes_blocks_for_its_tokens_only() -> None:
    blocks = BlockManager(8, 4)
    seq = make_sequence(0, range(9))
    assert blocks.match(seq).num_missing_blocks == 3
    admit(blocks, seq)
    assert (len(seq.block_table), blocks.num_free_blocks) == (3, 5)
    blocks.check_invariants([seq])


def test_growing_beyond_memory_changes_nothing() -> None:
    blocks = BlockManager(2, 4)
    seq = make_sequence(0, range(8))
    admit(blocks, seq)
    table = list(seq.block_table)
    assert not blocks.grow(seq, 9)
    assert seq.block_table == table
    blocks.check_invariants([seq])


def test_a_second_sequence_shares_the_full_blocks_of_the_prefix() -> None:
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, [*range(8), 50]), make_sequence(1, [*range(8), 60, 61])
    admit(blocks, a)
    admit(blocks, b)
    assert b.block_table[:2] == a.block_table[:2]
    assert b.block_table[2] != a.block_table[2]
    assert b.num_computed_tokens == 8
    blocks.check_invariants([a, b])


def test_a_full_hit_leaves_a_token_to_compute() -> None:
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, range(8)), make_sequence(1, range(8))
    admit(blocks, a)
    admit(blocks, b)
    assert b.num_computed_tokens == 4
    blocks.check_invariants([a, b])


def test_a_chunk_registers_only_the_blocks_that_it_fills() -> None:
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, range(12)), make_sequence(1, range(12))
    blocks.admit(a, blocks.match(a))
    blocks.grow(a, 7)
    assert len(blocks.match(b).block_ids) == 1
    blocks.grow(a, 8)
    assert len(blocks.match(b).block_ids) == 2


def test_generated_tokens_are_found_by_the_next_turn() -> None:
    blocks = BlockManager(8, 4)
    a = make_sequence(0, range(6))
    admit(blocks, a)
    for token_id in (6, 7, 8):
        a.num_computed_tokens = len(a.token_ids)
        a.token_ids.append(token_id)
        blocks.grow(a, len(a.token_ids))
    blocks.free(a)
    assert len(blocks.match(make_sequence(1, range(9))).block_ids) == 2


def test_salts_do_not_share() -> None:
    blocks = BlockManager(16, 4)
    admit(blocks, make_sequence(0, range(9), salt="a", encoder=[1]))
    for salt, num_hits in (("a", 2), ("b", 0), ("", 0)):
        match = blocks.match(make_sequence(1, range(9), salt=salt, encoder=[1]))
        assert (len(match.block_ids), match.encoder is not None) == (num_hits, num_hits > 0)


def test_without_caching_nothing_is_looked_up_or_registered() -> None:
    blocks = BlockManager(16, 4)
    a, b = (make_sequence(i, range(9), encoder=[1, 2], caching=False) for i in range(2))
    admit(blocks, a)
    admit(blocks, b)
    assert not {*a.block_table} & {*b.block_table}
    assert a.encoder_blocks is not b.encoder_blocks
    c = make_sequence(2, range(9), encoder=[1, 2])
    assert blocks.match(c).block_ids == []
    assert blocks.match(c).encoder is None
    blocks.check_invariants([a, b])


def test_free_hits_count_as_missing_because_they_leave_the_free_list() -> None:
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, range(9), encoder=range(6)), make_sequence(1, range(9), encoder=range(6))
    assert blocks.match(b).num_missing_blocks == 3 + 2
    admit(blocks, a)
    assert blocks.match(b).num_missing_blocks == 1
    blocks.free(a)
    assert blocks.match(b).num_missing_blocks == 3 + 2
    assert blocks.match(b).num_missing_encoder_tokens == 0


def test_the_same_source_shares_the_encoder_blocks() -> None:
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, [0], encoder=range(6)), make_sequence(1, [0], encoder=range(6))
    admit(blocks, a)
    admit(blocks, b)
    assert a.encoder_blocks is b.encoder_blocks
    blocks.check_invariants([a, b])
    blocks.free(a)
    blocks.check_invariants([b])
    assert blocks.match(a).num_missing_encoder_tokens == 0
    blocks.free(b)
    assert blocks.num_free_blocks == 8
    assert blocks.match(b).num_missing_encoder_tokens == 0


def test_an_encoder_entry_is_gone_when_one_of_its_blocks_is_reused() -> None:
    blocks = BlockManager(3, 4)
    a = make_sequence(0, [0], encoder=range(6))
    admit(blocks, a)
    blocks.free(a)
    other = make_sequence(1, range(8))
    admit(blocks, other)
    again = blocks.match(a)
    assert again.encoder is None
    assert again.num_missing_encoder_tokens == 6
    blocks.check_invariants([other])


def test_decoder_blocks_belong_to_their_encoder_input() -> None:
    blocks = BlockManager(16, 4)
    admit(blocks, make_sequence(0, range(9), encoder=[1]))
    assert len(blocks.match(make_sequence(1, range(9), encoder=[1])).block_ids) == 2
    assert blocks.match(make_sequence(2, range(9), encoder=[2])).block_ids == []
    assert blocks.match(make_sequence(3, range(9))).block_ids == []


def test_a_revoked_step_is_not_found_but_earlier_ones_are() -> None:
    blocks = BlockManager(16, 4)
    a = make_sequence(0, range(13), encoder=[1])
    blocks.admit(a, blocks.match(a))
    blocks.grow(a, 4)
    blocks.begin_step()
    a.num_computed_tokens = 4
    blocks.grow(a, 13)
    lost = blocks.revoke(a.seq_id)
    assert lost == a.block_table[1:3]
    match = blocks.match(make_sequence(1, range(13), encoder=[1]))
    assert match.block_ids == a.block_table[:1]
    assert match.encoder is not None
    assert blocks.revoke(a.seq_id) == []


def test_a_revoked_encoder_run_is_not_found() -> None:
    blocks = BlockManager(16, 4)
    a = make_sequence(0, [0], encoder=range(6))
    admit(blocks, a)
    assert a.encoder_blocks is not None
    assert blocks.revoke(a.seq_id) == a.encoder_blocks.block_table
    assert blocks.match(make_sequence(1, [0], encoder=range(6))).encoder is None


def test_a_sequence_sent_back_before_its_token_came_keeps_one_to_compute() -> None:
    """Its last block was full and registered when its step failed; a hit on that too left nothing to run."""
    blocks = BlockManager(8, 4)
    a, b = make_sequence(0, range(8)), make_sequence(1, range(8))
    admit(blocks, a)
    admit(blocks, b)
    blocks.free(b)
    match = blocks.match(b)
    assert len(b.digests) == 2
    assert len(match.block_ids) == 1


def test_long_prompts_share_nothing_with_short_ones() -> None:
    blocks = BlockManager(16, 4, long_prompt_boundary=10)
    admit(blocks, make_sequence(0, range(11)))
    assert blocks.match(make_sequence(1, range(10))).block_ids == []
    assert len(blocks.match(make_sequence(2, range(12))).block_ids) == 2


def test_the_same_prompt_again_computes_one_token() -> None:
    """Whether its end fills a block or not; the block that holds it is written on by the new sequence alone."""
    for length in (8, 10, 11):
        blocks = BlockManager(8, 4)
        a = make_sequence(0, range(length))
        admit(blocks, a)
        table = list(a.block_table)
        blocks.free(a)
        b, c = make_sequence(1, range(length)), make_sequence(2, range(length))
        blocks.begin_step()
        admit(blocks, b)
        assert (b.block_table, b.num_computed_tokens) == (table, length - 1)
        admit(blocks, c)
        assert c.num_computed_tokens <= 8
        assert c.block_table[-1] != b.block_table[-1]
        blocks.check_invariants([b, c])


def test_what_followed_the_end_of_a_prompt_is_not_found_once_other_tokens_follow() -> None:
    blocks = BlockManager(8, 4)
    a = make_sequence(0, range(6))
    admit(blocks, a)
    a.token_ids += [70, 71, 72, 73]
    assert blocks.grow(a, 10)
    blocks.free(a)
    longer = make_sequence(1, [*range(6), 70, 71, 72])
    assert len(blocks.match(longer).block_ids) == 2
    again = make_sequence(2, range(6))
    admit(blocks, again)
    assert again.num_computed_tokens == 5
    assert len(blocks.match(longer).block_ids) == 1
    blocks.check_invariants([again])


def test_the_end_of_a_prompt_whose_step_failed_is_not_found() -> None:
    blocks = BlockManager(8, 4)
    a = make_sequence(0, range(7))
    admit(blocks, a)
    blocks.revoke(a.seq_id)
    blocks.free(a)
    assert blocks.match(make_sequence(1, range(7))).block_ids == []

    b = make_sequence(2, range(7))
    admit(blocks, b)
    blocks.free(b)
    blocks.begin_step()
    c = make_sequence(3, range(7))
    admit(blocks, c)
    assert c.num_computed_tokens == 6
    blocks.revoke(c.seq_id)
    blocks.free(c)
    assert len(blocks.match(make_sequence(4, range(7))).block_ids) == 1
