"""A model on the CPU as native programs: what ``ModelRunner`` calls in place of the model itself.

The programs are recorded once, when the KV pool is there; a step is then one call for the hidden states and one for the
logits. A model whose forward pass cannot be recorded runs as it is.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segue.core.processors import allowed_processors
from segue.kernels import cpu
from segue.kernels.cpu.recorder import Recorder, TraceError
from segue.layers.attention import ForwardContext
from segue.models.base import Model, Seq2SeqModel
from segue.runner.input_batch import KVCaches

if TYPE_CHECKING:
    from segue.kernels.cpu import _native

__all__ = ["NativeModel", "is_native", "native_model", "own_processor", "use_threads"]

logger = logging.getLogger(__name__)


def use_threads(count: int) -> None:
    """How many threads the native kernels run on, the calling one included.

    Where they are as many as the processors of this process, each worker is bound to one: the system would else run two
    of them on one processor now and then, and a step waits for its slowest. With fewer threads it is not known which
    processors are free.
    """
    if cpu.is_available():
        from segue.kernels.cpu import _native

        if _native.num_threads() != count:
            _native.set_num_threads(count, count == len(allowed_processors()))


def own_processor() -> int | None:
    """What the workers leave to the calling thread; None where they are not bound to one each."""
    if cpu.is_available():
        from segue.kernels.cpu import _native

        processors = allowed_processors()
        if _native.num_threads() == len(processors) > 1:
            return processors[0]
    return None


def is_native(model: Model, device: torch.device) -> bool:
    """Whether ``model`` is to run as programs on ``device``."""
    return device.type == "cpu" and model.is_recordable and cpu.is_available()


def native_model(model: Model, kv_caches: KVCaches) -> "Model | NativeModel":
    """``model`` as programs, or itself where there are no native kernels or it cannot be recorded."""
    if not kv_caches or not is_native(model, kv_caches[0][0].device):
        return model
    try:
        return NativeModel(model, kv_caches)
    except TraceError as error:
        logger.warning("The model runs step by step, not as a native program: %s", error)
        return model


class NativeModel:
    """The part of ``Model`` that a runner uses, by native programs."""

    def __init__(self, model: Model, kv_caches: KVCaches) -> None:
        """Raises TraceError when the forward pass cannot be recorded."""
        from segue.kernels.cpu.program import EXTERNAL_INPUT, NativeProgram

        self.model = model
        self.is_encoder_decoder = model.is_encoder_decoder
        self.long_prompt_boundary = model.long_prompt_boundary
        self.vocab_size, self.max_positions = model.vocab_size, model.max_positions
        traced: Any = model  # called with values that stand for tensors
        recorder = Recorder()
        hidden = traced(recorder.ids("tokens"), recorder.ids("positions"), self._context(kv_caches, recorder))
        self._forward = NativeProgram(recorder, hidden)
        recorder = Recorder()
        logits = traced.compute_logits(recorder.external(hidden.width, EXTERNAL_INPUT))
        self._logits = NativeProgram(recorder, logits)
        self._encode: NativeProgram | None = None
        if isinstance(model, Seq2SeqModel):
            recorder = Recorder()
            traced.encode(recorder.ids("tokens"), recorder.ids("positions"), self._context(kv_caches, recorder))
            self._encode = NativeProgram(recorder, None, whole_sequences=True)

    def _context(self, kv_caches: KVCaches, recorder: Recorder) -> ForwardContext:
        """What stands for a step's context while the pass is recorded."""
        context: Any = ForwardContext  # whose attributes the recorder takes by their names
        is_long = None if self.long_prompt_boundary is None else recorder.ids("is_long")
        traced: ForwardContext = context(
            kv_caches=kv_caches, attention="self", slot_mapping="slots", cross_attention="cross", is_long=is_long
        )
        return traced

    def __call__(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        """As ``Model.forward``; hidden states in float32, of the wanted rows where the program can leave out others."""
        rows, wanted = input_ids.shape[0], None
        if ctx.wanted is not None and self._forward.narrows:
            rows, wanted = sum(ctx.wanted), torch.tensor(ctx.wanted, dtype=torch.int64)
        hidden = torch.empty(rows, self._forward.width)
        self._forward.run(
            input_ids.shape[0],
            output=hidden,
            tokens=input_ids,
            positions=positions,
            is_long=ctx.is_long,
            slots=ctx.slot_mapping,
            attention=ctx.attention,
            cross_attention=ctx.cross_attention,
            wanted=wanted,
        )
        return hidden

    @property
    def programs(self) -> "tuple[_native.Program, _native.Program]":
        """Tokens to hidden states, and those to logits; valid as long as this model lives."""
        return self._forward.native, self._logits.native

    @property
    def hidden_width(self) -> int:
        return self._forward.width

    def encode(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> None:
        """As ``Seq2SeqModel.encode``."""
        assert self._encode is not None
        self._encode.run(
            input_ids.shape[0],
            tokens=input_ids,
            positions=positions,
            slots=ctx.slot_mapping,
            attention=ctx.attention,
        )

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """As ``Model.compute_logits``."""
        logits = torch.empty(hidden.shape[0], self._logits.width)
        self._logits.run(hidden.shape[0], output=logits, input=hidden)
        return logits
