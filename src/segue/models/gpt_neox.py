"""GPT-NeoX and Pythia (Black et al. 2022): rotary positions on a part of each head, attention and MLP side by side."""

from typing import ClassVar

from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.rotary import Rotary, Rotation
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["GPTNeoXForCausalLM"]


class GPTNeoXAttention(nn.Module):
    """The checkpoint interleaves q, k and v head by head."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("hidden_size", 6144), config.integer("num_attention_heads", 64)
        self.head_dim = hidden // self.num_heads
        bias = config.boolean("attention_bias", True)
        self.query_key_value = MergedLinear(hidden, (hidden, hidden, hidden), bias=bias, groups=self.num_heads)
        self.dense = Linear(hidden, hidden, bias=bias)
        self.attention = Attention(
            layer,
            AttentionSpec(num_heads=self.num_heads, num_kv_heads=self.num_heads, scale=self.head_dim**-0.5),
        )

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        heads = self.query_key_value(x).view(x.shape[0], -1, self.head_dim)  # [num_tokens, 3 num_heads, d]
        rotated = rotation.apply(heads[:, : 2 * self.num_heads])
        q, k, v = rotated[:, : self.num_heads], rotated[:, self.num_heads :], heads[:, 2 * self.num_heads :]
        return self.dense(self.attention(q, k, v, ctx))


class GPTNeoXMLP(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden, inner = config.integer("hidden_size", 6144), config.integer("intermediate_size", 24576)
        self.dense_h_to_4h = Linear(hidden, inner, bias=True)
        self.dense_4h_to_h = Linear(inner, hidden, bias=True)
        self.activation = activation(config.string("hidden_act", "gelu"))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class GPTNeoXLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size", 6144), config.number("layer_norm_eps", 1e-5)
        self.is_parallel = config.boolean("use_parallel_residual", True)
        self.input_layernorm = LayerNorm(hidden, eps)
        self.post_attention_layernorm = LayerNorm(hidden, eps)
        self.attention = GPTNeoXAttention(config, layer)
        self.mlp = GPTNeoXMLP(config)

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        attended = x + self.attention(self.input_layernorm(x), rotation, ctx)
        return attended + self.mlp(self.post_attention_layernorm(x if self.is_parallel else attended))


class GPTNeoXModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("hidden_size", 6144)
        self.embed_in = Embedding(config.integer("vocab_size", 50432), hidden)
        self.layers = Stack(GPTNeoXLayer(config, i) for i in range(config.integer("num_hidden_layers", 44)))
        self.final_layer_norm = LayerNorm(hidden, config.number("layer_norm_eps", 1e-5))
        head_dim = hidden // config.integer("num_attention_heads", 64)
        theta, share = config.number("rotary_emb_base", 10000.0), config.number("rotary_pct", 0.25)
        self.rotary = Rotary(config.rope(head_dim, theta=theta, partial=share))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.embed_in(input_ids)
        rotation = self.rotary(positions, ctx.is_long, x.dtype)
        for layer in self.layers:
            x = layer(x, rotation, ctx)
        return self.final_layer_norm(x)


class GPTNeoXForCausalLM(Model):
    prefix = "gpt_neox."
    renames: ClassVar = ((r"^embed_out\.", "lm_head."),)
    ignored = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        hidden, num_heads = config.integer("hidden_size", 6144), config.integer("num_attention_heads", 64)
        self.vocab_size = config.integer("vocab_size", 50432)
        self.gpt_neox = GPTNeoXModel(config)
        tied = self.gpt_neox.embed_in if config.boolean("tie_word_embeddings", False) else None
        self.lm_head = OutputHead(self.vocab_size, hidden, tied_to=tied)
        self.kv_layers = [KVLayerSpec(num_heads, hidden // num_heads, hidden // num_heads)] * len(self.gpt_neox.layers)
        self.max_positions = self.gpt_neox.rotary.params.num_positions
        self.long_prompt_boundary = self.gpt_neox.rotary.long_prompt_boundary

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.gpt_neox(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
