"""BART (Lewis et al. 2020): post-norm encoder-decoder with learned positions."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.attention import Attention, CrossAttention, EncoderAttention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.stack import Stack
from segue.models.base import Seq2SeqModel
from segue.models.config import HFConfig

__all__ = ["BartForConditionalGeneration"]

POSITION_OFFSET = 2
"""Positions start here in the table (what fairseq kept for padding)."""


class _SelfAttention(nn.Module):
    def __init__(self, hidden: int, num_heads: int, attend: Attention | EncoderAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden // num_heads
        self.qkv_proj = MergedLinear(hidden, (hidden, hidden, hidden), bias=True)
        self.out_proj = Linear(hidden, hidden, bias=True)
        self.attend = attend

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x).view(x.shape[0], 3, self.num_heads, self.head_dim).unbind(1)
        return self.out_proj(self.attend(q, k, v, ctx))


class _CrossAttention(nn.Module):
    def __init__(self, hidden: int, num_heads: int, attend: CrossAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden // num_heads
        self.q_proj = Linear(hidden, hidden, bias=True)
        self.kv_proj = MergedLinear(hidden, (hidden, hidden), bias=True)
        self.out_proj = Linear(hidden, hidden, bias=True)
        self.attend = attend

    def store(self, encoded: Tensor, ctx: ForwardContext) -> None:
        k, v = self.kv_proj(encoded).view(encoded.shape[0], 2, self.num_heads, self.head_dim).unbind(1)
        self.attend.store(k, v, ctx)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.out_proj(self.attend(self.q_proj(x).view(x.shape[0], self.num_heads, self.head_dim), ctx))


class _Layer(nn.Module):
    """Attention, cross-attention in the decoder, MLP; each added and then normalized."""

    def __init__(self, config: HFConfig, side: str, layer: int) -> None:
        super().__init__()
        hidden, num_heads = config.integer("d_model", 1024), config.integer(f"{side}_attention_heads", 16)
        inner = config.integer(f"{side}_ffn_dim", 4096)
        scale = (hidden // num_heads) ** -0.5
        spec = AttentionSpec(num_heads=num_heads, num_kv_heads=num_heads, scale=scale, causal=side == "decoder")
        is_decoder = side == "decoder"
        self.self_attn = _SelfAttention(
            hidden, num_heads, Attention(layer, spec) if is_decoder else EncoderAttention(spec)
        )
        self.self_attn_layer_norm = LayerNorm(hidden, 1e-5)
        if is_decoder:
            cross = AttentionSpec(num_heads=num_heads, num_kv_heads=num_heads, scale=scale, causal=False)
            self.encoder_attn = _CrossAttention(hidden, num_heads, CrossAttention(layer, cross))
            self.encoder_attn_layer_norm = LayerNorm(hidden, 1e-5)
        self.is_decoder = is_decoder
        self.fc1 = Linear(hidden, inner, bias=True)
        self.fc2 = Linear(inner, hidden, bias=True)
        self.final_layer_norm = LayerNorm(hidden, 1e-5)
        self.activation = activation(config.string("activation_function", "gelu"))

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, ctx))
        if self.is_decoder:
            x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, ctx))
        return self.final_layer_norm(x + self.fc2(self.activation(self.fc1(x))))


class _Stack(nn.Module):
    """``shared`` is the model's embedding; kept in a list, so that it is not a second submodule."""

    def __init__(self, config: HFConfig, side: str, shared: Embedding) -> None:
        super().__init__()
        hidden = config.integer("d_model", 1024)
        self.shared = [shared]
        self.embed_scale = math.sqrt(hidden) if config.boolean("scale_embedding", False) else 1.0
        self.embed_positions = Embedding(config.integer("max_position_embeddings", 1024) + POSITION_OFFSET, hidden)
        self.layernorm_embedding = LayerNorm(hidden, 1e-5)
        self.layers = Stack(_Layer(config, side, i) for i in range(config.integer(f"{side}_layers", 12)))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.shared[0](input_ids) * self.embed_scale + self.embed_positions(positions + POSITION_OFFSET)
        x = self.layernorm_embedding(x)
        for layer in self.layers:
            x = layer(x, ctx)
        return x


class BartForConditionalGeneration(Seq2SeqModel):
    packed: ClassVar = {
        "self_attn.q_proj": ("self_attn.qkv_proj", 0),
        "self_attn.k_proj": ("self_attn.qkv_proj", 1),
        "self_attn.v_proj": ("self_attn.qkv_proj", 2),
        "encoder_attn.k_proj": ("encoder_attn.kv_proj", 0),
        "encoder_attn.v_proj": ("encoder_attn.kv_proj", 1),
    }
    renames: ClassVar = ((r"^model\.", ""), (r"^(encoder|decoder)\.embed_tokens\.", "shared."))

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        hidden = config.integer("d_model", 1024)
        self.vocab_size = config.integer("vocab_size", 50265)
        self.max_positions = config.integer("max_position_embeddings", 1024)
        self.shared = Embedding(self.vocab_size, hidden)
        self.encoder, self.decoder = _Stack(config, "encoder", self.shared), _Stack(config, "decoder", self.shared)
        self.lm_head = OutputHead(self.vocab_size, hidden, bias=True, tied_to=self.shared)
        num_heads = config.integer("decoder_attention_heads", 16)
        self.kv_layers = [KVLayerSpec(num_heads, hidden // num_heads, hidden // num_heads)] * len(self.decoder.layers)

    def convert(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        if name == "final_logits_bias":
            return [("lm_head.bias", tensor[0])]
        return [(name, tensor)]

    def finish_loading(self) -> None:
        bias = self.lm_head.bias
        assert bias is not None
        if bias.is_meta:  # a buffer that newer checkpoints leave out when it is zero
            weight = self.shared.weight
            self.lm_head.bias = nn.Parameter(
                torch.zeros(self.vocab_size, dtype=weight.dtype, device=weight.device), requires_grad=False
            )

    def encode(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> None:
        encoded = self.encoder(input_ids, positions, ctx)
        for layer in self.decoder.layers:
            layer.encoder_attn.store(encoded, ctx)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.decoder(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
