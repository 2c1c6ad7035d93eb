"""Gives sequences their blocks: looks up what is cached, reserves what is missing, registers what will be computed.

Blocks are registered when the step that computes them is scheduled, not when it is done: within a step every layer
writes all K/V before it reads any, so a second sequence with the same prefix may use them in that very step. What a
failed step did not compute is withdrawn by ``revoke``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from segue.core.batch import EncoderInput
from segue.engine.block_pool import BlockPool
from segue.engine.prefix_cache import PrefixCache, block_digest, encoder_digest, root_digest
from segue.engine.sequence import EncoderBlocks, Sequence

__all__ = ["BlockManager", "Match"]


@dataclass(frozen=True, slots=True)
class Match:
    """What the caches hold of a waiting sequence; valid until any block is taken."""

    block_ids: list[int]
    num_computed_tokens: int
    """That these blocks hold. At least one token stays to be computed, though it may be in them already."""
    has_tail: bool
    """The last of the blocks is not full: it holds the end of an equal prompt, and nobody uses it."""
    encoder: EncoderBlocks | None
    num_missing_blocks: int
    """To take from the free list for all its present tokens and its encoder input, hits that are free included."""
    num_missing_encoder_tokens: int
    """To run through the encoder."""
    num_missing_tokens: int
    """To compute in all, the encoder's included."""


class BlockManager:
    def __init__(self, num_blocks: int, block_size: int, long_prompt_boundary: int | None = None) -> None:
        self.block_size = block_size
        self.long_prompt_boundary = long_prompt_boundary
        self._cache = PrefixCache()
        self._pool = BlockPool(num_blocks, self._cache)
        self._registered: dict[int, list[int]] = {}

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        return self._pool.num_free

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def begin_step(self) -> None:
        """What was registered so far is computed: it can no longer be revoked."""
        if self._registered:
            self._registered = {}

    def match(self, seq: Sequence) -> Match:
        """Look up a waiting sequence. At least one of its tokens stays to be computed. Changes no block."""
        block_ids: list[int] = []
        encoder = tail = None
        if seq.uses_cache:
            num_blocks = len(seq.token_ids) // self.block_size
            self._extend_digests(seq, num_blocks)
            block_ids = self._cache.find(seq.digests[:num_blocks])
            if seq.encoder_digest is not None:
                encoder = self._cache.find_encoder(seq.encoder_digest)
            if len(block_ids) == num_blocks:
                tail = self._find_tail(seq)
                block_ids += [] if tail is None else [tail]
            covers_all = len(block_ids) * self.block_size >= len(seq.token_ids)
            if covers_all and not self._pool.is_free(block_ids[-1]):
                block_ids.pop()  # its last token is computed again, and nobody writes to what another reads
        num_computed = max(0, min(len(block_ids) * self.block_size, len(seq.token_ids) - 1))
        num_missing = self.num_blocks_for(len(seq.token_ids)) - len(block_ids)
        num_missing += sum(map(self._pool.is_free, block_ids))
        if encoder is None:
            num_missing += self.num_blocks_for(seq.num_encoder_tokens)
        else:
            num_missing += sum(map(self._pool.is_free, encoder.block_table))
        num_encoder_tokens = 0 if encoder else seq.num_encoder_tokens
        num_tokens = len(seq.token_ids) - num_computed + num_encoder_tokens
        return Match(block_ids, num_computed, tail is not None, encoder, num_missing, num_encoder_tokens, num_tokens)

    def admit(self, seq: Sequence, match: Match) -> None:
        """Give the sequence what ``match`` found, and blocks for its encoder input if that must run."""
        assert (seq.block_table, seq.encoder_blocks, seq.num_computed_tokens) == ([], None, 0)
        self._pool.acquire(match.block_ids)
        seq.block_table = match.block_ids
        seq.num_registered_blocks = len(match.block_ids) - match.has_tail
        seq.num_computed_tokens = match.num_computed_tokens
        if match.has_tail:
            self._cache.keep_tail_only(match.block_ids[-1])
            seq.has_offered_tail = True
        if match.num_computed_tokens < len(match.block_ids) * self.block_size:  # this step writes to the last one
            self._registered.setdefault(seq.seq_id, []).append(match.block_ids[-1])
        if match.encoder is not None:
            self._pool.acquire(match.encoder.block_table)
            seq.encoder_blocks = match.encoder
        elif seq.request.encoder_token_ids is not None:
            seq.encoder_blocks = self._take_encoder_blocks(seq, seq.request.encoder_token_ids)

    def grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Make ``block_table`` cover ``num_tokens`` and register the blocks they fill; False if memory is out."""
        num_full_blocks = num_tokens // self.block_size
        if num_full_blocks >= len(seq.block_table):
            missing = self.num_blocks_for(num_tokens) - len(seq.block_table)
            if missing > self._pool.num_free:
                return False
            seq.block_table += self._pool.take(missing)
        if seq.uses_cache:
            if num_full_blocks > seq.num_registered_blocks:
                self._register(seq, num_full_blocks)
            if not seq.has_offered_tail and num_tokens >= seq.num_prompt_tokens:
                self._register_tail(seq)
        return True

    def reserve(self, seq: Sequence, num_tokens: int) -> int:
        """Make ``block_table`` cover ``num_tokens``, or what there are blocks for; returns how many.

        Nothing is registered: what will stand in these slots is not certain.
        """
        missing = min(self.num_blocks_for(num_tokens) - len(seq.block_table), self._pool.num_free)
        if missing > 0:
            seq.block_table += self._pool.take(missing)
        return min(num_tokens, len(seq.block_table) * self.block_size)

    def settle(self, seq: Sequence) -> None:
        """After a step with reserved slots: register the blocks that computed tokens fill, take the others back."""
        if seq.uses_cache and seq.num_computed_tokens // self.block_size > seq.num_registered_blocks:
            self._register(seq, seq.num_computed_tokens // self.block_size)
        num_blocks = self.num_blocks_for(seq.num_computed_tokens)
        if num_blocks < len(seq.block_table):
            self._pool.release(seq.block_table[num_blocks:])
            seq.block_table = seq.block_table[:num_blocks]

    def free(self, seq: Sequence) -> None:
        """Take back all that the sequence holds; what is registered stays hittable until it is reused."""
        self._pool.release(seq.block_table)
        if seq.encoder_blocks is not None:
            self._pool.release(seq.encoder_blocks.block_table)
            seq.encoder_blocks = None
        seq.block_table = []
        seq.num_registered_blocks = 0
        seq.num_computed_tokens = 0
        seq.has_offered_tail = False

    def discard(self, block_ids: Iterable[int]) -> None:
        """What these blocks hold is not to be trusted: nobody may find them any more. Those who share them go on."""
        for block_id in block_ids:
            self._pool.forget(block_id)

    def revoke(self, seq_id: int) -> list[int]:
        """The sequence did not run in this step: nobody may find the blocks it was to fill, which are returned."""
        block_ids = self._registered.pop(seq_id, [])
        self.discard(block_ids)
        return block_ids

    def _extend_digests(self, seq: Sequence, num_blocks: int) -> None:
        if not seq.root_digest:
            request = seq.request
            if request.encoder_token_ids is not None:
                seq.encoder_digest = encoder_digest(request.cache_salt, request.encoder_token_ids)
            boundary = self.long_prompt_boundary
            is_long = boundary is not None and len(request.prompt_token_ids) > boundary
            seq.root_digest = root_digest(request.cache_salt, seq.encoder_digest, is_long=is_long)
        digests, size = seq.digests, self.block_size
        for i in range(len(digests), num_blocks):
            parent = digests[i - 1] if i else seq.root_digest
            digests.append(block_digest(parent, seq.token_ids[i * size : (i + 1) * size]))

    def _register(self, seq: Sequence, num_full_blocks: int) -> None:
        self._extend_digests(seq, num_full_blocks)
        registered = self._registered.setdefault(seq.seq_id, [])
        for i in range(seq.num_registered_blocks, num_full_blocks):
            if self._cache.register(seq.block_table[i], seq.digests[i]):
                registered.append(seq.block_table[i])
        seq.num_registered_blocks = num_full_blocks

    def _find_tail(self, seq: Sequence) -> int | None:
        """A block that nobody uses and that holds the sequence's last tokens, which fill no block, as its first.

        It may be written on behind them. So a prompt that comes again computes one token, not up to a block's.
        """
        tail = seq.token_ids[len(seq.token_ids) // self.block_size * self.block_size :]
        if len(tail) < 2:
            return None
        block_id = self._cache.find_tail(block_digest(self._last_digest(seq, len(seq.token_ids)), tail))
        return block_id if block_id is not None and self._pool.is_free(block_id) else None

    def _register_tail(self, seq: Sequence) -> None:
        """The end of the prompt, where it fills no block."""
        seq.has_offered_tail = True
        first_block, num_tokens = divmod(seq.num_prompt_tokens, self.block_size)
        if num_tokens < 2:
            return
        self._extend_digests(seq, first_block)
        tail = seq.token_ids[seq.num_prompt_tokens - num_tokens : seq.num_prompt_tokens]
        block_id = seq.block_table[first_block]
        if self._cache.register_tail(block_id, block_digest(self._last_digest(seq, seq.num_prompt_tokens), tail)):
            self._registered.setdefault(seq.seq_id, []).append(block_id)

    def _last_digest(self, seq: Sequence, num_tokens: int) -> bytes:
        """Of the last full block of the first ``num_tokens`` tokens, or the root's."""
        num_blocks = num_tokens // self.block_size
        return seq.digests[num_blocks - 1] if num_blocks else seq.root_digest

    def _take_encoder_blocks(self, seq: Sequence, token_ids: tuple[int, ...]) -> EncoderBlocks:
        block_table = self._pool.take(self.num_blocks_for(len(token_ids)))
        view = EncoderInput(token_ids=token_ids, block_table=block_table, run=False)
        encoder = EncoderBlocks(block_table, view, seq.encoder_digest)
        if encoder.digest is not None:
            self._cache.register_encoder(encoder)
            self._registered.setdefault(seq.seq_id, []).extend(block_table)
        return encoder

    def check_invariants(self, sequences: Iterable[Sequence]) -> None:
        """``sequences``: all that own blocks. No block is owned twice but for equal content; free + used = all.

        Raises ``AssertionError``.
        """
        owners: dict[int, list[object]] = {}
        for seq in sequences:
            contents: list[object] = [*seq.digests[: len(seq.block_table)]]
            contents += [seq] * (len(seq.block_table) - len(contents))
            encoder_table = seq.encoder_blocks.block_table if seq.encoder_blocks else []
            owned = [*zip(seq.block_table, contents, strict=True), *((i, seq.encoder_blocks) for i in encoder_table)]
            assert len(dict(owned)) == len(owned), owned
            for block_id, content in owned:
                owners.setdefault(block_id, []).append(content)
        assert all(len(set(contents)) == 1 for contents in owners.values()), owners
        self._pool.check_invariants({block_id: len(contents) for block_id, contents in owners.items()})
        self._cache.check_invariants()
