"""The physical KV blocks: reference counts, and a free list in LRU order whose blocks stay hittable until reused."""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from segue.engine.prefix_cache import PrefixCache

__all__ = ["BlockPool"]


class BlockPool:
    """Every operation costs O(1) a block. A block is free if and only if its reference count is 0."""

    def __init__(self, num_blocks: int, cache: PrefixCache) -> None:
        self.num_blocks = num_blocks
        self._cache = cache
        self._ref_counts = [0] * num_blocks
        # First out first: blocks without content, then the longest unused.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def is_free(self, block_id: int) -> bool:
        return self._ref_counts[block_id] == 0

    def take(self, num_blocks: int) -> list[int]:
        """Blocks for new content, each with one reference. The caller has made sure that there are enough."""
        assert num_blocks <= len(self._free), (num_blocks, len(self._free))
        taken = []
        for _ in range(num_blocks):
            block_id, _ = self._free.popitem(last=False)
            self.forget(block_id)
            self._ref_counts[block_id] = 1
            taken.append(block_id)
        return taken

    def acquire(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each of these blocks, found in the cache."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._free[block_id]
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Seq[int]) -> None:
        """Drop a reference to each block of a table. Last block first, so that a long prefix is reused from its end."""
        for block_id in reversed(block_ids):
            count = self._ref_counts[block_id] - 1
            assert count >= 0, block_id
            self._ref_counts[block_id] = count
            if count == 0:
                self._free[block_id] = None
                if not self._cache.holds(block_id):
                    self._free.move_to_end(block_id, last=False)

    def forget(self, block_id: int) -> None:
        """The block's content is gone, or was never written: nobody may find it any more."""
        for worthless in self._cache.forget(block_id):
            if worthless in self._free:
                self._free.move_to_end(worthless, last=False)

    def check_invariants(self, ref_counts: dict[int, int]) -> None:
        """``ref_counts``: what the users of the blocks count. Raises ``AssertionError`` on any difference."""
        for block_id, count in enumerate(self._ref_counts):
            assert count == ref_counts.get(block_id, 0), (block_id, count, ref_counts.get(block_id, 0))
            assert (count == 0) == (block_id in self._free), (block_id, count)
        assert set(ref_counts) <= set(range(self.num_blocks))
