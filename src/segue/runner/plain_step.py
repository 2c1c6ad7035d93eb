"""Steps in one native call, where every sequence is plain: its token follows from its logits and the tokens before it.

Those are most steps of most servers: greedy ones, sampled ones and those with penalties, which are chosen as
``segue.sampling`` chooses them. What ``ModelRunner`` does of tensors, rows and verdicts costs 0.2 ms a step, since
the weights that pass through the caches between two steps leave nothing of Python in them.
"""

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.core.output import TokenOutput
from segue.runner.native_model import NativeModel

__all__ = ["PlainStep"]


class PlainStep:
    def __init__(self, model: NativeModel, block_size: int) -> None:
        from segue.kernels.cpu import _native

        self._is_encoder_decoder = model.is_encoder_decoder
        self._native = _native.PlainStep(*model.programs, model.hidden_width, model.vocab_size, block_size)

    def run(self, batch: ScheduledBatch) -> tuple[list[tuple[TokenOutput, ...]], float] | None:
        """The tokens of each sequence, one of each step, and the seconds that choosing took, where those are all that
        they want.

        None where they are not, or where a sequence has no finite logits in the first step; K/V written until then are
        written again. Encoder inputs must have run.
        """
        sequences = batch.sequences
        if not all(map(_is_plain, sequences)):
            return None
        encoders = [s.encoder for s in sequences if s.encoder is not None] if self._is_encoder_decoder else []
        steps, choosing_s = self._native.run(
            [s.token_ids for s in sequences],
            [s.num_computed_tokens for s in sequences],
            [s.block_table for s in sequences],
            [len(encoder.token_ids) for encoder in encoders],
            [encoder.block_table for encoder in encoders],
            [_chooser(s) for s in sequences],
            batch.max_steps,
            list(batch.stop_token_ids),
            batch.news_file,
        )
        if not steps:
            return None
        return list(zip(*[[TokenOutput(*token) for token in step] for step in steps], strict=True)), choosing_s


def _is_plain(sequence: ScheduledSequence) -> bool:
    return sequence.sampling.is_plain and sequence.needs_token and not sequence.num_draft_tokens


def _chooser(sequence: ScheduledSequence) -> tuple[object, ...] | None:
    """What the native side is told of how a token is chosen; None: the likeliest."""
    if sequence.sampling.takes_likeliest:
        return None
    return sequence.sampling, sequence.seed, sequence.history, sequence.num_prompt_tokens
