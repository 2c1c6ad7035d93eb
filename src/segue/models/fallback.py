"""Families that are not written here, through ``transformers``' own modules, on the same scheduler and cache.

``packed`` runs a whole step at once: transformers calls our attention operator with packed q, k and v
(``AttentionInterface``), as it does for most models since 2025. ``sequential`` serves the others, and all
encoder-decoders: one sequence at a time through a ``Cache`` whose keys and values lie in our blocks.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

from segue.core.errors import UnsupportedModelError
from segue.kernels import ops
from segue.kernels.metadata import AttentionSpec
from segue.layers.attention import ForwardContext, KVLayerSpec
from segue.models.base import Model, Seq2SeqModel
from segue.models.config import HFConfig
from segue.models.fallback_cache import BlockCache, RecordingCache, cross_cache

__all__ = ["load_fallback"]

logger = logging.getLogger(__name__)

ATTENTION_NAME = "segue"


def load_fallback(
    folder: Path, config: HFConfig, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> Model:
    """Load any causal or seq2seq language model that ``transformers`` can.

    Raises:
        UnsupportedModelError: transformers cannot load it, or it keeps a state that is not keys and values.
    """
    transformers.AttentionInterface.register(ATTENTION_NAME, _attention)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        hf = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        auto = transformers.AutoModelForSeq2SeqLM if hf.is_encoder_decoder else transformers.AutoModelForCausalLM
        inner = auto.from_pretrained(folder, config=hf, **options)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UnsupportedModelError(f"Unsupported model type {config.model_type or '(none)'}: {error}") from error
    inner = inner.to(device).eval().requires_grad_(False)
    if inner._is_stateful or _has_recurrent_layers(hf):
        raise UnsupportedModelError(
            f"Unsupported model type {config.model_type}: it keeps a recurrent state, which the paged cache cannot hold"
        )
    logger.info("%s runs through transformers: slower than a family written here", config.model_type)
    if hf.is_encoder_decoder:
        return _SequentialSeq2Seq(config, inner)
    if inner._supports_attention_backend:
        inner.set_attn_implementation(ATTENTION_NAME)
        return _PackedCausal(config, inner)
    return _SequentialCausal(config, inner)


def _has_recurrent_layers(hf: Any) -> bool:
    kinds = getattr(hf.get_text_config(), "layer_types", None) or []
    return any("attention" not in kind or "linear" in kind for kind in kinds)


class _Wrapped(Model):
    """Common to both ways: facts of the transformers model."""

    inner: Any
    is_recordable = False

    def __init__(self, config: HFConfig, inner: nn.Module) -> None:
        super().__init__(config)
        self.inner = inner
        self.dtype = self.inner.dtype
        text = self.inner.config.get_text_config(decoder=True)
        self.vocab_size = int(self.inner.get_output_embeddings().weight.shape[0])
        self.max_positions = getattr(text, "max_position_embeddings", None)
        self.kv_layers = self._probe()

    def _probe(self) -> list[KVLayerSpec]:
        """Run a token or two and see what each layer stores."""
        raise NotImplementedError

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``hidden`` holds logits already: what lies between the last layer and them differs from model to model."""
        return hidden

    @property
    def _device(self) -> torch.device:
        return next(self.inner.parameters()).device


class _PackedCausal(_Wrapped):
    def _probe(self) -> list[KVLayerSpec]:
        seen: dict[int, KVLayerSpec] = {}
        with _current(seen):
            self.inner(input_ids=torch.tensor([[0]], device=self._device), use_cache=False)
        return _in_order(seen)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        with _current(ctx):
            return self.inner(input_ids=input_ids[None], position_ids=positions[None], use_cache=False).logits[0]


class _SequentialCausal(_Wrapped):
    def _probe(self) -> list[KVLayerSpec]:
        cache = RecordingCache()
        self.inner(input_ids=torch.tensor([[0]], device=self._device), past_key_values=cache, use_cache=True)
        return _in_order(cache.seen)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        rows = []
        for i, start, end in _spans(ctx):
            cache = BlockCache(ctx, i)
            mask = torch.ones(1, ctx.attention.kv_lens[i], dtype=torch.int64, device=input_ids.device)
            output = self.inner(
                input_ids=input_ids[None, start:end], attention_mask=mask, past_key_values=cache, use_cache=True
            )
            rows.append(output.logits[0])
        return torch.cat(rows)


class _SequentialSeq2Seq(_Wrapped, Seq2SeqModel):
    def _probe(self) -> list[KVLayerSpec]:
        one = torch.tensor([[0]], device=self._device)
        cache = transformers.EncoderDecoderCache(RecordingCache(), RecordingCache())
        self.inner(input_ids=one, decoder_input_ids=one, past_key_values=cache, use_cache=True)
        specs = _in_order(cache.self_attention_cache.seen)
        if specs != _in_order(cache.cross_attention_cache.seen):
            raise UnsupportedModelError("cross-attention stores other shapes than self-attention")
        return specs

    def encode(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> None:
        """The cross K/V come out of a decoder run over one token: every family projects them in its own place."""
        start_id = torch.tensor([[0]], device=input_ids.device)
        for _, start, end in _spans(ctx):
            recorded = RecordingCache(keep=True)
            cache = transformers.EncoderDecoderCache(RecordingCache(), recorded)
            self.inner(
                input_ids=input_ids[None, start:end], decoder_input_ids=start_id, past_key_values=cache, use_cache=True
            )
            for layer, (k, v) in recorded.kept.items():
                ops.write_kv(_rows(k), _rows(v), *ctx.kv_caches[layer], ctx.slot_mapping[start:end])

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        assert ctx.cross_attention is not None
        rows = []
        for i, start, end in _spans(ctx):
            cross = cross_cache(ctx, i, self.inner.dtype)
            cache = transformers.EncoderDecoderCache(BlockCache(ctx, i), cross)
            num_source = ctx.cross_attention.kv_lens[i]
            # The encoder's output is not read again, but its shape is.
            encoded = input_ids.new_zeros((1, num_source, self.inner.config.hidden_size), dtype=self.inner.dtype)
            output = self.inner(
                encoder_outputs=transformers.modeling_outputs.BaseModelOutput(last_hidden_state=encoded),
                attention_mask=torch.ones(1, num_source, dtype=torch.int64, device=input_ids.device),
                decoder_input_ids=input_ids[None, start:end],
                past_key_values=cache,
                use_cache=True,
            )
            rows.append(output.logits[0])
        return torch.cat(rows)


def _spans(ctx: ForwardContext) -> Iterator[tuple[int, int, int]]:
    """(sequence, first row, row after the last)."""
    starts = ctx.attention.query_starts
    for i in range(len(starts) - 1):
        yield i, starts[i], starts[i + 1]


def _rows(states: Tensor) -> Tensor:
    """transformers' [1, heads, tokens, dim] → [tokens, heads, dim]."""
    return states[0].transpose(0, 1)


def _in_order(seen: dict[int, KVLayerSpec]) -> list[KVLayerSpec]:
    if sorted(seen) != list(range(len(seen))) or not seen:
        raise UnsupportedModelError(f"the model's attention layers are numbered {sorted(seen)}, not from 0 on")
    return [seen[i] for i in range(len(seen))]


_contexts: list[ForwardContext | dict[int, KVLayerSpec]] = []


@contextlib.contextmanager
def _current(ctx: ForwardContext | dict[int, KVLayerSpec]) -> Iterator[None]:
    """transformers gives our attention function no argument of ours, so the step's context is set around the call."""
    assert not _contexts, "a model is running already"
    _contexts.append(ctx)
    try:
        yield
    finally:
        _contexts.pop()


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float | Literal[0] = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' attention function: q, k, v are [1, heads, tokens, dim]; gives [1, tokens, heads, dim]."""
    q, k, v = _rows(query), _rows(key), _rows(value)
    ctx = _contexts[-1]
    if isinstance(ctx, dict):
        ctx[module.layer_idx] = KVLayerSpec(k.shape[1], k.shape[2], v.shape[2])
        return query.new_zeros(1, q.shape[0], q.shape[1], v.shape[2]), None
    k_cache, v_cache = ctx.kv_caches[module.layer_idx]
    spec = AttentionSpec(
        num_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        scale=scaling if scaling is not None else q.shape[2] ** -0.5,
        sliding_window=sliding_window,
        soft_cap=softcap,
        sinks=s_aux,
    )
    ops.write_kv(k, v, k_cache, v_cache, ctx.slot_mapping)
    return ops.paged_attention(q, k_cache, v_cache, ctx.attention, spec)[None], None
