"""OPT (Zhang et al. 2022), and Galactica: learned positions, ReLU; the 350M model normalizes after each part."""

from typing import ClassVar

from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["OPTForCausalLM"]

POSITION_OFFSET = 2
"""Positions start here in the table (what fairseq kept for padding)."""

NORM_EPS = 1e-5


class OPTAttention(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("hidden_size", 768), config.integer("num_attention_heads", 12)
        self.head_dim = hidden // self.num_heads
        bias = config.boolean("enable_bias", True)
        self.qkv_proj = MergedLinear(hidden, (hidden, hidden, hidden), bias=bias)
        self.out_proj = Linear(hidden, hidden, bias=bias)
        self.attention = Attention(
            layer,
            AttentionSpec(num_heads=self.num_heads, num_kv_heads=self.num_heads, scale=self.head_dim**-0.5),
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x).view(x.shape[0], 3, self.num_heads, self.head_dim).unbind(1)
        return self.out_proj(self.attention(q, k, v, ctx))


class OPTLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, inner = config.integer("hidden_size", 768), config.integer("ffn_dim", 3072)
        bias = config.boolean("enable_bias", True)
        affine = config.boolean("layer_norm_elementwise_affine", True)
        self.norm_first = config.boolean("do_layer_norm_before", True)
        self.self_attn = OPTAttention(config, layer)
        self.self_attn_layer_norm = LayerNorm(hidden, NORM_EPS, affine=affine)
        self.fc1 = Linear(hidden, inner, bias=bias)
        self.fc2 = Linear(inner, hidden, bias=bias)
        self.final_layer_norm = LayerNorm(hidden, NORM_EPS, affine=affine)
        self.activation = activation(config.string("activation_function", "relu"))

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        if self.norm_first:
            x = x + self.self_attn(self.self_attn_layer_norm(x), ctx)
            return x + self._mlp(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self.self_attn(x, ctx))
        return self.final_layer_norm(x + self._mlp(x))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class OPTDecoder(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("hidden_size", 768)
        embedded = config.integer("word_embed_proj_dim", hidden)
        self.embed_tokens = Embedding(config.integer("vocab_size", 50272), embedded)
        self.embed_positions = Embedding(config.integer("max_position_embeddings", 2048) + POSITION_OFFSET, hidden)
        is_projected = embedded != hidden
        self.project_in = Linear(embedded, hidden, bias=False) if is_projected else None
        self.project_out = Linear(hidden, embedded, bias=False) if is_projected else None
        self.layers = Stack(OPTLayer(config, i) for i in range(config.integer("num_hidden_layers", 12)))
        has_norm = config.boolean("do_layer_norm_before", True) and not config.boolean(
            "_remove_final_layer_norm", False
        )
        affine = config.boolean("layer_norm_elementwise_affine", True)
        self.final_layer_norm = LayerNorm(hidden, NORM_EPS, affine=affine) if has_norm else None

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.embed_tokens(input_ids)
        if self.project_in is not None:
            x = self.project_in(x)
        x = x + self.embed_positions(positions + POSITION_OFFSET)
        for layer in self.layers:
            x = layer(x, ctx)
        if self.final_layer_norm is not None:
            x = self.final_layer_norm(x)
        return x if self.project_out is None else self.project_out(x)


class OPTModel(nn.Module):
    """One level of names: ``model.decoder.layers``."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.decoder = OPTDecoder(config)


class OPTForCausalLM(Model):
    prefix = "model."
    packed: ClassVar = {"q_proj": ("qkv_proj", 0), "k_proj": ("qkv_proj", 1), "v_proj": ("qkv_proj", 2)}
    ignored = ("decoder.version",)

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        hidden, num_heads = config.integer("hidden_size", 768), config.integer("num_attention_heads", 12)
        self.vocab_size = config.integer("vocab_size", 50272)
        self.max_positions = config.integer("max_position_embeddings", 2048)
        self.model = OPTModel(config)
        decoder = self.model.decoder
        tied = decoder.embed_tokens if config.boolean("tie_word_embeddings", True) else None
        self.lm_head = OutputHead(self.vocab_size, config.integer("word_embed_proj_dim", hidden), tied_to=tied)
        self.kv_layers = [KVLayerSpec(num_heads, hidden // num_heads, hidden // num_heads)] * len(decoder.layers)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.model.decoder(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
