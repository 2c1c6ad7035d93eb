"""Falcon (Almazrouei et al. 2023): 7B with one key head, 40B and 11B with grouped ones, RW with ALiBi.

The first two were published as model types "RefinedWebModel" and "RefinedWeb", with other names for the same settings.
"""

from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.alibi import give_slopes
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.rotary import Rotary, Rotation
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["FalconForCausalLM"]


def is_new_architecture(config: HFConfig) -> bool:
    """40B's decoder layer: grouped heads, attention and MLP side by side."""
    return config.boolean("new_decoder_architecture", config.model_type == "RefinedWeb")


def num_kv_heads_of(config: HFConfig) -> int:
    num_heads = config.integer("num_attention_heads", 71)
    if not is_new_architecture(config) and config.boolean("multi_query", True):
        return 1
    return config.integer("num_kv_heads", num_heads)


class FalconAttention(nn.Module):
    """The checkpoint interleaves q, k and v by groups of heads that share a key head."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("hidden_size", 4544), config.integer("num_attention_heads", 71)
        self.head_dim, self.num_kv_heads = hidden // self.num_heads, num_kv_heads_of(config)
        bias, kv_size = config.boolean("bias", False), self.num_kv_heads * self.head_dim
        self.query_key_value = MergedLinear(hidden, (hidden, kv_size, kv_size), bias=bias, groups=self.num_kv_heads)
        self.dense = Linear(hidden, hidden, bias=bias)
        self.attention = Attention(
            layer,
            AttentionSpec(
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                scale=self.head_dim**-0.5,
                alibi_is_rounded=True,
            ),
        )

    def forward(self, x: Tensor, rotation: Rotation | None, ctx: ForwardContext) -> Tensor:
        heads = self.query_key_value(x).view(x.shape[0], -1, self.head_dim)  # [num_tokens, num_heads + 2 kv, d]
        num_rotated = self.num_heads + self.num_kv_heads
        rotated = heads[:, :num_rotated] if rotation is None else rotation.apply(heads[:, :num_rotated])
        q, k, v = rotated[:, : self.num_heads], rotated[:, self.num_heads :], heads[:, num_rotated:]
        return self.dense(self.attention(q, k, v, ctx))


class FalconMLP(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden, bias = config.integer("hidden_size", 4544), config.boolean("bias", False)
        inner = config.integer("ffn_hidden_size", 4 * hidden)
        self.dense_h_to_4h = Linear(hidden, inner, bias=bias)
        self.dense_4h_to_h = Linear(inner, hidden, bias=bias)
        self.activation = activation(config.string("activation", "gelu"))

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class FalconLayer(nn.Module):
    """Side by side (with one norm for both parts or one each), or one after the other."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size", 4544), config.number("layer_norm_epsilon", 1e-5)
        is_new = is_new_architecture(config)
        self.is_parallel = is_new or config.boolean("parallel_attn", True)
        self.has_two_norms = is_new and config.integer("num_ln_in_parallel_attn", 2) == 2
        self.self_attention = FalconAttention(config, layer)
        self.mlp = FalconMLP(config)
        if self.has_two_norms:
            self.ln_attn, self.ln_mlp = LayerNorm(hidden, eps), LayerNorm(hidden, eps)
        else:
            self.input_layernorm = LayerNorm(hidden, eps)
        if not self.is_parallel:
            self.post_attention_layernorm = LayerNorm(hidden, eps)

    def forward(self, x: Tensor, rotation: Rotation | None, ctx: ForwardContext) -> Tensor:
        if self.has_two_norms:
            return x + self.self_attention(self.ln_attn(x), rotation, ctx) + self.mlp(self.ln_mlp(x))
        normed = self.input_layernorm(x)
        x = x + self.self_attention(normed, rotation, ctx)
        return x + self.mlp(normed if self.is_parallel else self.post_attention_layernorm(x))


class FalconModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("hidden_size", 4544)
        self.word_embeddings = Embedding(config.integer("vocab_size", 65024), hidden)
        self.h = Stack(FalconLayer(config, i) for i in range(config.integer("num_hidden_layers", 32)))
        self.ln_f = LayerNorm(hidden, config.number("layer_norm_epsilon", 1e-5))
        head_dim = hidden // config.integer("num_attention_heads", 71)
        self.rotary = None if config.boolean("alibi", False) else Rotary(config.rope(head_dim))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.word_embeddings(input_ids)
        rotation = None if self.rotary is None else self.rotary(positions, ctx.is_long, x.dtype)
        for layer in self.h:
            x = layer(x, rotation, ctx)
        return self.ln_f(x)


class FalconForCausalLM(Model):
    prefix = "transformer."
    ignored = (".rotary_emb.inv_freq", ".rotary.inv_freq")

    def __init__(self, config: HFConfig) -> None:
        config = config.renamed(
            n_embed="hidden_size", n_layer="num_hidden_layers", n_head="num_attention_heads", n_head_kv="num_kv_heads"
        )
        super().__init__(config)
        hidden, num_heads = config.integer("hidden_size", 4544), config.integer("num_attention_heads", 71)
        self.vocab_size = config.integer("vocab_size", 65024)
        self.transformer = FalconModel(config)
        tied = self.transformer.word_embeddings if config.boolean("tie_word_embeddings", True) else None
        self.lm_head = OutputHead(self.vocab_size, hidden, tied_to=tied)
        spec = KVLayerSpec(num_kv_heads_of(config), hidden // num_heads, hidden // num_heads)
        self.kv_layers = [spec] * len(self.transformer.h)
        rotary = self.transformer.rotary
        self.max_positions = None if rotary is None else rotary.params.num_positions
        self.long_prompt_boundary = None if rotary is None else rotary.long_prompt_boundary

    def finish_loading(self) -> None:
        if self.transformer.rotary is None:
            give_slopes(self, self.transformer.word_embeddings.weight.device)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.transformer(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
