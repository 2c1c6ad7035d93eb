"""Which blocks hold which tokens: digests of full blocks, and of whole encoder inputs, to block ids.

A block's digest covers its tokens and everything before them: ``digest_i = H(digest_{i-1}, token ids of block i)``,
starting from ``digest_{-1} = H(cache salt, encoder digest)``. Equal digests therefore mean equal K/V. The hash is
cryptographic because a collision would hand one caller another one's context.

This module knows nothing of reference counts: the pool tells it when a block is reused.
"""

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from hashlib import blake2b

from segue.engine.sequence import EncoderBlocks

__all__ = ["PrefixCache", "block_digest", "encoder_digest", "root_digest"]

_DIGEST_BYTES = 32


def block_digest(parent: bytes, token_ids: Seq[int]) -> bytes:
    """Digest of a full block that follows the block (or root) with digest ``parent``."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES).digest()


def root_digest(salt: str, encoder: bytes | None, *, is_long: bool = False) -> bytes:
    """What a sequence's first block has as parent; ``is_long``: beyond the model's ``long_prompt_boundary``."""
    encoder = encoder or b""
    data = bytes([is_long, len(encoder)]) + encoder + salt.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=_DIGEST_BYTES, person=b"segue.prefix").digest()


def encoder_digest(salt: str, token_ids: Seq[int]) -> bytes:
    """Key of an encoder input."""
    data = len(token_ids).to_bytes(8, "little") + array("q", token_ids).tobytes()
    data += salt.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=_DIGEST_BYTES, person=b"segue.encoder").digest()


class PrefixCache:
    """Block ids by digest. A block has at most one digest or belongs to at most one encoder entry.

    Beside its own, a block may have a digest of its first tokens, with which a prompt ends: its ``tail``.
    """

    def __init__(self) -> None:
        self._block_ids: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._tails: dict[bytes, int] = {}
        self._tail_digests: dict[int, bytes] = {}
        self._encoders: dict[bytes, EncoderBlocks] = {}
        self._encoder_of: dict[int, EncoderBlocks] = {}

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest cached prefix of ``digests``."""
        found: list[int] = []
        for digest in digests:
            block_id = self._block_ids.get(digest)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def register(self, block_id: int, digest: bytes) -> bool:
        """Make the block findable; False, and no change, if another block holds the same tokens already."""
        if digest in self._block_ids:
            return False
        self._block_ids[digest] = block_id
        self._digests[block_id] = digest
        return True

    def find_tail(self, digest: bytes) -> int | None:
        """A block whose first tokens are those; what stands behind them is another's."""
        return self._tails.get(digest)

    def register_tail(self, block_id: int, digest: bytes) -> bool:
        """As ``register``, for the block's first tokens."""
        if digest in self._tails or block_id in self._tail_digests:
            return False
        self._tails[digest] = block_id
        self._tail_digests[block_id] = digest
        return True

    def keep_tail_only(self, block_id: int) -> None:
        """Other tokens are to follow the block's first ones."""
        digest = self._digests.pop(block_id, None)
        if digest is not None:
            del self._block_ids[digest]

    def find_encoder(self, digest: bytes) -> EncoderBlocks | None:
        return self._encoders.get(digest)

    def register_encoder(self, encoder: EncoderBlocks) -> None:
        """Make the encoder input findable; it must not be already."""
        assert encoder.digest is not None
        assert encoder.digest not in self._encoders
        self._encoders[encoder.digest] = encoder
        self._encoder_of.update(dict.fromkeys(encoder.block_table, encoder))

    def holds(self, block_id: int) -> bool:
        """Whether the block can be found."""
        return block_id in self._digests or block_id in self._tail_digests or block_id in self._encoder_of

    def forget(self, block_id: int) -> Seq[int]:
        """The block's content is gone. Returns the blocks that became worthless with it: an encoder entry is whole."""
        digest, tail = self._digests.pop(block_id, None), self._tail_digests.pop(block_id, None)
        if tail is not None:
            del self._tails[tail]
        if digest is not None:
            del self._block_ids[digest]
        if digest is not None or tail is not None:
            return (block_id,)
        encoder = self._encoder_of.get(block_id)
        if encoder is None:
            return ()
        assert encoder.digest is not None
        del self._encoders[encoder.digest]
        for other in encoder.block_table:
            del self._encoder_of[other]
        return encoder.block_table

    def check_invariants(self) -> None:
        """Raises ``AssertionError`` if the maps disagree."""
        assert {block: digest for digest, block in self._block_ids.items()} == self._digests
        assert {block: digest for digest, block in self._tails.items()} == self._tail_digests
        assert not (self._digests.keys() | self._tail_digests.keys()) & self._encoder_of.keys()
        for digest, encoder in self._encoders.items():
            assert encoder.digest == digest
            assert all(self._encoder_of[block] is encoder for block in encoder.block_table)
        assert len(self._encoder_of) == sum(len(e.block_table) for e in self._encoders.values())
