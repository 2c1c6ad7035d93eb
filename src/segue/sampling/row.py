"""What the sampler is told about each row of logits."""

from collections.abc import Sequence

from msgspec import Struct

from segue.core.request import SamplingParams

__all__ = ["SamplingRow"]


class SamplingRow(Struct, frozen=True, gc=False):
    params: SamplingParams
    history: Sequence[int]
    """All token ids so far, prompt and output; not empty."""
    seed: int
    """Unsigned 64 bits; ``params.seed`` may be None, this never is."""
    position: int
    """Index of the token being chosen in the whole sequence: ``len(history)``."""
    num_prompt_tokens: int
    """The first so many of ``history`` are the prompt; a grammar's text begins after them."""
    seq_id: int = 0
    """A hint where a grammar's state may be found; what is found is compared with ``history``."""
