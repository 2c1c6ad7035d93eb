from collections.abc import Sequence

from torch import Tensor

from segue.sampling.processors.additions import Additions
from segue.sampling.row import SamplingRow

__all__ = ["PresencePenalty"]


class PresencePenalty:
    """OpenAI's: a logit loses ``penalty`` once its id was generated, however often; the prompt does not count."""

    greedy_safe = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def columns(self, rows: Sequence[SamplingRow]) -> Additions | None:
        places: list[int] = []
        amounts: list[float] = []
        for i, row in enumerate(rows):
            penalty = row.params.presence_penalty
            if penalty != 0.0:
                generated = {each for each in row.history[row.num_prompt_tokens :] if 0 <= each < self._vocab_size}
                places += [i * self._vocab_size + token_id for token_id in generated]
                amounts += [-penalty] * len(generated)
        return Additions(places, amounts) if places else None

    def apply(self, logits: Tensor, columns: Additions) -> Tensor:
        return columns.add(logits)
