"""GPT-Neo (Black et al. 2021): GPT-2 with windows on some layers and unscaled attention scores."""

from typing import ClassVar

from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["GPTNeoForCausalLM"]


def window_of(config: HFConfig, layer: int) -> int | None:
    """``attention_types`` is run-length coded, ``[[["global", "local"], 12]]``: "local" layers have a window."""
    kinds: list[str] = []
    for names, repeats in config.values.get("attention_types") or [[["global", "local"], 12]]:
        kinds += list(names) * repeats
    if len(kinds) != config.integer("num_layers", 24) or not {"global", "local"}.issuperset(kinds):
        raise ConfigError(f"config.json: attention_types must name 'global' or 'local' for each layer, gives {kinds}")
    return config.integer("window_size", 256) if kinds[layer] == "local" else None


class GPTNeoSelfAttention(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("hidden_size", 2048), config.integer("num_heads", 16)
        self.head_dim = hidden // self.num_heads
        self.qkv_proj = MergedLinear(hidden, (hidden, hidden, hidden), bias=False)
        self.out_proj = Linear(hidden, hidden, bias=True)
        self.attend = Attention(
            layer,
            AttentionSpec(
                num_heads=self.num_heads,
                num_kv_heads=self.num_heads,
                scale=1.0,
                sliding_window=window_of(config, layer),
            ),
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x).view(x.shape[0], 3, self.num_heads, self.head_dim).unbind(1)
        return self.out_proj(self.attend(q, k, v, ctx))


class GPTNeoAttention(nn.Module):
    """One level of names: ``attn.attention.q_proj``."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        self.attention = GPTNeoSelfAttention(config, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.attention(x, ctx)


class GPTNeoMLP(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("hidden_size", 2048)
        inner = config.integer("intermediate_size", 4 * hidden)
        self.c_fc = Linear(hidden, inner, bias=True)
        self.c_proj = Linear(inner, hidden, bias=True)
        self.activation = activation(config.string("activation_function", "gelu_new"))

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class GPTNeoLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size", 2048), config.number("layer_norm_epsilon", 1e-5)
        self.ln_1 = LayerNorm(hidden, eps)
        self.attn = GPTNeoAttention(config, layer)
        self.ln_2 = LayerNorm(hidden, eps)
        self.mlp = GPTNeoMLP(config)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = x + self.attn(self.ln_1(x), ctx)
        return x + self.mlp(self.ln_2(x))


class GPTNeoModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("hidden_size", 2048)
        self.wte = Embedding(config.integer("vocab_size", 50257), hidden)
        self.wpe = Embedding(config.integer("max_position_embeddings", 2048), hidden)
        self.h = Stack(GPTNeoLayer(config, i) for i in range(config.integer("num_layers", 24)))
        self.ln_f = LayerNorm(hidden, config.number("layer_norm_epsilon", 1e-5))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.wte(input_ids) + self.wpe(positions)
        for layer in self.h:
            x = layer(x, ctx)
        return self.ln_f(x)


class GPTNeoForCausalLM(Model):
    prefix = "transformer."
    packed: ClassVar = {"q_proj": ("qkv_proj", 0), "k_proj": ("qkv_proj", 1), "v_proj": ("qkv_proj", 2)}
    ignored = (".attention.bias", ".attention.masked_bias")

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        hidden, num_heads = config.integer("hidden_size", 2048), config.integer("num_heads", 16)
        self.vocab_size = config.integer("vocab_size", 50257)
        self.max_positions = config.integer("max_position_embeddings", 2048)
        self.transformer = GPTNeoModel(config)
        tied = self.transformer.wte if config.boolean("tie_word_embeddings", True) else None
        self.lm_head = OutputHead(self.vocab_size, hidden, tied_to=tied)
        self.kv_layers = [KVLayerSpec(num_heads, hidden // num_heads, hidden // num_heads)] * len(self.transformer.h)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.transformer(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
