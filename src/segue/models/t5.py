"""T5 (Raffel et al. 2020), v1.0 and v1.1, and mT5: relative position buckets, no attention scale, RMSNorm."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec, RelativeBias
from segue.layers.activation import activation
from segue.layers.attention import Attention, CrossAttention, EncoderAttention, ForwardContext, KVLayerSpec
from segue.layers.base import Layer, parameter
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import RMSNorm
from segue.layers.stack import Stack
from segue.models.base import Seq2SeqModel
from segue.models.config import HFConfig

__all__ = ["T5ForConditionalGeneration"]


class _SelfAttention(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.integer("num_heads", 8), config.integer("d_kv", 64)
        inner = self.num_heads * self.head_dim
        self.qkv = MergedLinear(config.integer("d_model", 512), (inner, inner, inner), bias=False)
        self.o = Linear(inner, config.integer("d_model", 512), bias=False)

    def heads(self, x: Tensor) -> list[Tensor]:
        return list(self.qkv(x).view(x.shape[0], 3, self.num_heads, self.head_dim).unbind(1))


class _CrossAttention(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.integer("num_heads", 8), config.integer("d_kv", 64)
        hidden, inner = config.integer("d_model", 512), self.num_heads * self.head_dim
        self.q = Linear(hidden, inner, bias=False)
        self.kv = MergedLinear(hidden, (inner, inner), bias=False)
        self.o = Linear(inner, hidden, bias=False)
        spec = AttentionSpec(num_heads=self.num_heads, num_kv_heads=self.num_heads, scale=1.0, causal=False)
        self.attention = CrossAttention(layer, spec)

    def store(self, encoded: Tensor, ctx: ForwardContext) -> None:
        k, v = self.kv(encoded).view(encoded.shape[0], 2, self.num_heads, self.head_dim).unbind(1)
        self.attention.store(k, v, ctx)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.o(self.attention(self.q(x).view(x.shape[0], self.num_heads, self.head_dim), ctx))


class _FeedForward(nn.Module):
    """v1.0: wo(act(wi(x))); v1.1 gated: wo(act(wi_0(x)) * wi_1(x))."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden, inner = config.integer("d_model", 512), config.integer("d_ff", 2048)
        kind = config.string("feed_forward_proj", "relu")
        gated, _, name = kind.rpartition("-")
        # "gated-gelu" has meant the tanh approximation since v1.1 came out
        name = "gelu_new" if kind == "gated-gelu" else name
        self.wi: Linear
        if gated:
            self.wi = MergedLinear(hidden, (inner, inner), bias=False, gate=name)
        else:
            self.wi = Linear(hidden, inner, bias=False)
        self.wo = Linear(inner, hidden, bias=False)
        self.activation = activation("linear" if gated else name)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.wi(x))
        return self.wo(inner.to(self.wo.weight.dtype)).to(x.dtype)


class _EncoderLayer(nn.Module):
    def __init__(self, config: HFConfig, bias: RelativeBias) -> None:
        super().__init__()
        hidden, eps = config.integer("d_model", 512), config.number("layer_norm_epsilon", 1e-6)
        self.attention, self.attention_norm = _SelfAttention(config), RMSNorm(hidden, eps)
        self.feed_forward, self.feed_forward_norm = _FeedForward(config), RMSNorm(hidden, eps)
        heads = self.attention.num_heads
        self.attend = EncoderAttention(
            AttentionSpec(num_heads=heads, num_kv_heads=heads, scale=1.0, causal=False, relative_bias=bias)
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = _add(x, self.attention.o(self.attend(*self.attention.heads(self.attention_norm(x)), ctx)))
        return _add(x, self.feed_forward(self.feed_forward_norm(x)))


class _DecoderLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int, bias: RelativeBias) -> None:
        super().__init__()
        hidden, eps = config.integer("d_model", 512), config.number("layer_norm_epsilon", 1e-6)
        self.attention, self.attention_norm = _SelfAttention(config), RMSNorm(hidden, eps)
        self.cross, self.cross_norm = _CrossAttention(config, layer), RMSNorm(hidden, eps)
        self.feed_forward, self.feed_forward_norm = _FeedForward(config), RMSNorm(hidden, eps)
        heads = self.attention.num_heads
        spec = AttentionSpec(num_heads=heads, num_kv_heads=heads, scale=1.0, relative_bias=bias)
        self.attend = Attention(layer, spec)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = _add(x, self.attention.o(self.attend(*self.attention.heads(self.attention_norm(x)), ctx)))
        x = _add(x, self.cross(self.cross_norm(x), ctx))
        return _add(x, self.feed_forward(self.feed_forward_norm(x)))


def _add(x: Tensor, y: Tensor) -> Tensor:
    """The residual; float16 cannot hold what T5 was trained to in bfloat16, so it is clamped there."""
    x = x + y
    if x.dtype == torch.float16:
        limit = torch.finfo(torch.float16).max - 1000
        x = x.clamp(-limit, limit)
    return x


class _BiasTable(Layer):
    """The relative bias of a stack, which all its layers share."""

    def __init__(self, config: HFConfig, *, bidirectional: bool) -> None:
        super().__init__()
        buckets = config.integer("relative_attention_num_buckets", 32)
        self.weight = parameter(buckets, config.integer("num_heads", 8))
        max_distance = config.integer("relative_attention_max_distance", 128)
        self.bias = RelativeBias(self.weight, max_distance, bidirectional)

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        super().load(name, tensor, part)
        self.bias.table = self.weight


class _Encoder(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.bias = _BiasTable(config, bidirectional=True)
        self.layers = Stack(_EncoderLayer(config, self.bias.bias) for _ in range(config.integer("num_layers", 6)))
        self.norm = RMSNorm(config.integer("d_model", 512), config.number("layer_norm_epsilon", 1e-6))


class _Decoder(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        count = config.integer("num_decoder_layers", config.integer("num_layers", 6))
        self.bias = _BiasTable(config, bidirectional=False)
        self.layers = Stack(_DecoderLayer(config, i, self.bias.bias) for i in range(count))
        self.norm = RMSNorm(config.integer("d_model", 512), config.number("layer_norm_epsilon", 1e-6))


class T5ForConditionalGeneration(Seq2SeqModel):
    """The checkpoint's ``block.i.layer.j`` become named parts (``renames``)."""

    packed: ClassVar = {
        "attention.q": ("attention.qkv", 0),
        "attention.k": ("attention.qkv", 1),
        "attention.v": ("attention.qkv", 2),
        "cross.k": ("cross.kv", 0),
        "cross.v": ("cross.kv", 1),
        "wi_0": ("wi", 0),
        "wi_1": ("wi", 1),
    }
    renames: ClassVar = (
        (r"^(encoder|decoder)\.embed_tokens\.", "shared."),
        (r"\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.", ".bias."),
        (r"\.block\.(\d+)\.layer\.0\.SelfAttention\.", r".layers.\1.attention."),
        (r"\.block\.(\d+)\.layer\.0\.layer_norm\.", r".layers.\1.attention_norm."),
        (r"\.block\.(\d+)\.layer\.1\.EncDecAttention\.", r".layers.\1.cross."),
        (r"^decoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"decoder.layers.\1.cross_norm."),
        (r"\.block\.(\d+)\.layer\.\d\.layer_norm\.", r".layers.\1.feed_forward_norm."),
        (r"\.block\.(\d+)\.layer\.\d\.DenseReluDense\.", r".layers.\1.feed_forward."),
        (r"\.final_layer_norm\.", ".norm."),
    )
    # v1.1 checkpoints carry a table in the cross-attention that the model never read
    ignored = ("EncDecAttention.relative_attention_bias.weight",)

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        self.vocab_size = config.integer("vocab_size", 32128)
        self.max_positions = None
        hidden = config.integer("d_model", 512)
        self.shared = Embedding(self.vocab_size, hidden)
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        self.lm_head = OutputHead(self.vocab_size, hidden, tied_to=self.shared)
        self.output_scale = hidden**-0.5 if self._scales_output() else None
        spec = KVLayerSpec(config.integer("num_heads", 8), config.integer("d_kv", 64), config.integer("d_kv", 64))
        self.kv_layers = [spec] * len(self.decoder.layers)

    def _scales_output(self) -> bool:
        """v1.0 scales what goes into the head, v1.1 and mT5 do not; old configs say so by ``tie_word_embeddings``."""
        config = self.config
        if config.model_type == "mt5":
            return False
        return config.boolean("scale_decoder_outputs", config.boolean("tie_word_embeddings", True))

    def finish_loading(self) -> None:
        if self.decoder.norm.weight.dtype == torch.float16:  # the inner activations overflow float16
            for stack in (self.encoder, self.decoder):
                for layer in stack.layers:
                    layer.feed_forward.wo.weight.data = layer.feed_forward.wo.weight.data.float()

    def encode(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> None:
        x = self.shared(input_ids)
        for layer in self.encoder.layers:
            x = layer(x, ctx)
        x = self.encoder.norm(x)
        for decoder_layer in self.decoder.layers:
            decoder_layer.cross.store(x, ctx)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.shared(input_ids)
        for layer in self.decoder.layers:
            x = layer(x, ctx)
        return self.decoder.norm(x)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden if self.output_scale is None else hidden * self.output_scale)
