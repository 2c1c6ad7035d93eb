"""Llama and its closest relatives (Touvron et al. 2023): RMSNorm, rotary positions, gated MLP, grouped heads.

Mistral adds a sliding window, Qwen 2 biases on q/k/v and windows on some layers, Qwen 3 a norm on q and k.
"""

from typing import ClassVar

from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import RMSNorm
from segue.layers.rotary import Rotary, Rotation
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["GatedMLP", "LlamaForCausalLM", "LlamaLayer", "SelfAttention", "head_dim_of", "sliding_window_of"]


def head_dim_of(config: HFConfig) -> int:
    return config.optional_integer("head_dim") or config.integer("hidden_size") // config.integer("num_attention_heads")


def sliding_window_of(config: HFConfig, layer: int) -> int | None:
    """The window of one layer, None where it sees everything."""
    window = config.optional_integer("sliding_window")
    if window is None or not config.boolean("use_sliding_window", not config.model_type.startswith("qwen")):
        return None
    layer_types = config.strings("layer_types")
    if layer_types is not None:
        return window if layer_types[layer] == "sliding_attention" else None
    if config.model_type.startswith("qwen"):
        return window if layer >= config.integer("max_window_layers", 28) else None
    return window


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: HFConfig, layer: int, *, qkv_bias: bool, out_bias: bool, qk_norm: bool = False) -> None:
        super().__init__()
        hidden, self.head_dim = config.integer("hidden_size"), head_dim_of(config)
        self.num_heads = config.integer("num_attention_heads")
        self.num_kv_heads = config.integer("num_key_value_heads", self.num_heads)
        kv_size = self.num_kv_heads * self.head_dim
        self.qkv_proj = MergedLinear(hidden, (self.num_heads * self.head_dim, kv_size, kv_size), bias=qkv_bias)
        self.o_proj = Linear(self.num_heads * self.head_dim, hidden, bias=out_bias)
        self.q_norm = RMSNorm(self.head_dim, config.number("rms_norm_eps", 1e-6)) if qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.number("rms_norm_eps", 1e-6)) if qk_norm else None
        self.attention = Attention(layer, self.spec(config, layer))

    def spec(self, config: HFConfig, layer: int) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            scale=self.head_dim**-0.5,
            sliding_window=sliding_window_of(config, layer),
        )

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        heads = self.qkv_proj(x).view(x.shape[0], -1, self.head_dim)  # [num_tokens, num_heads + 2 num_kv_heads, d]
        num_rotated = self.num_heads + self.num_kv_heads
        if self.q_norm is None or self.k_norm is None:
            rotated = rotation.apply(heads[:, :num_rotated])
            q, k = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        else:
            q = rotation.apply(self.q_norm(heads[:, : self.num_heads]))
            k = rotation.apply(self.k_norm(heads[:, self.num_heads : num_rotated]))
        return self.o_proj(self.attention(q, k, heads[:, num_rotated:], ctx))


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, config: HFConfig, *, bias: bool = False, default_activation: str = "silu") -> None:
        super().__init__()
        hidden, inner = config.integer("hidden_size"), config.integer("intermediate_size")
        gate = config.string("hidden_act", default_activation)
        self.gate_up_proj = MergedLinear(hidden, (inner, inner), bias=bias, gate=gate)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_up_proj(x))


class LlamaLayer(nn.Module):
    """Pre-norm attention and MLP, each with its residual."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size"), config.number("rms_norm_eps", 1e-6)
        is_qwen2 = config.model_type == "qwen2"
        bias = config.boolean("attention_bias", False)
        self.self_attn = SelfAttention(
            config,
            layer,
            qkv_bias=bias or is_qwen2,
            out_bias=bias and not is_qwen2,
            qk_norm=config.model_type == "qwen3",
        )
        self.mlp = GatedMLP(config, bias=config.boolean("mlp_bias", False))
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, ctx)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.integer("vocab_size"), config.integer("hidden_size"))
        self.layers = Stack(LlamaLayer(config, i) for i in range(config.integer("num_hidden_layers")))
        self.norm = RMSNorm(config.integer("hidden_size"), config.number("rms_norm_eps", 1e-6))
        self.rotary = Rotary(config.rope(head_dim_of(config)))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.embed_tokens(input_ids)
        rotation = self.rotary(positions, ctx.is_long, x.dtype)
        for layer in self.layers:
            x = layer(x, rotation, ctx)
        return self.norm(x)


class LlamaForCausalLM(Model):
    prefix = "model."
    packed: ClassVar = {
        "q_proj": ("qkv_proj", 0),
        "k_proj": ("qkv_proj", 1),
        "v_proj": ("qkv_proj", 2),
        "gate_proj": ("gate_up_proj", 0),
        "up_proj": ("gate_up_proj", 1),
    }
    ignored = ("rotary_emb.inv_freq",)

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        tied = self.model.embed_tokens if config.boolean("tie_word_embeddings", False) else None
        self.vocab_size = config.integer("vocab_size")
        self.lm_head = OutputHead(self.vocab_size, config.integer("hidden_size"), tied_to=tied)
        num_kv_heads = config.integer("num_key_value_heads", config.integer("num_attention_heads"))
        spec = KVLayerSpec(num_kv_heads, head_dim_of(config), head_dim_of(config))
        self.kv_layers = [spec] * config.integer("num_hidden_layers")
        self.max_positions = self.model.rotary.params.num_positions
        self.long_prompt_boundary = self.model.rotary.long_prompt_boundary

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.model(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
