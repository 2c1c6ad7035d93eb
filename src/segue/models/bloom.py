"""BLOOM (BigScience 2022): ALiBi instead of positions, a LayerNorm on the embeddings."""

from torch import Tensor, nn

from segue.kernels.metadata import AttentionSpec
from segue.layers.activation import activation
from segue.layers.alibi import give_slopes
from segue.layers.attention import Attention, ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.layers.norm import LayerNorm
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig

__all__ = ["BloomForCausalLM"]


class BloomAttention(nn.Module):
    """The checkpoint interleaves q, k and v head by head."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("hidden_size", 64), config.integer("n_head", 8)
        self.query_key_value = MergedLinear(hidden, (hidden, hidden, hidden), bias=True, groups=self.num_heads)
        self.dense = Linear(hidden, hidden, bias=True)
        self.attention = Attention(
            layer,
            AttentionSpec(
                num_heads=self.num_heads, num_kv_heads=self.num_heads, scale=(hidden // self.num_heads) ** -0.5
            ),
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.query_key_value(x).view(x.shape[0], 3, self.num_heads, -1).unbind(1)
        return self.dense(self.attention(q, k, v, ctx))


class BloomMLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(hidden, 4 * hidden, bias=True)
        self.dense_4h_to_h = Linear(4 * hidden, hidden, bias=True)
        self.activation = activation("gelu_pytorch_tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class BloomLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size", 64), config.number("layer_norm_epsilon", 1e-5)
        self.adds_normed = config.boolean("apply_residual_connection_post_layernorm", False)
        self.input_layernorm = LayerNorm(hidden, eps)
        self.self_attention = BloomAttention(config, layer)
        self.post_attention_layernorm = LayerNorm(hidden, eps)
        self.mlp = BloomMLP(hidden)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        normed = self.input_layernorm(x)
        x = (normed if self.adds_normed else x) + self.self_attention(normed, ctx)
        normed = self.post_attention_layernorm(x)
        return (normed if self.adds_normed else x) + self.mlp(normed)


class BloomModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size", 64), config.number("layer_norm_epsilon", 1e-5)
        self.word_embeddings = Embedding(config.integer("vocab_size", 250880), hidden)
        self.word_embeddings_layernorm = LayerNorm(hidden, eps)
        self.h = Stack(BloomLayer(config, i) for i in range(config.integer("n_layer", 2)))
        self.ln_f = LayerNorm(hidden, eps)

    def forward(self, input_ids: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.word_embeddings_layernorm(self.word_embeddings(input_ids))
        for layer in self.h:
            x = layer(x, ctx)
        return self.ln_f(x)


class BloomForCausalLM(Model):
    prefix = "transformer."

    def __init__(self, config: HFConfig) -> None:
        config = config.renamed(n_embed="hidden_size", num_hidden_layers="n_layer", num_attention_heads="n_head")
        super().__init__(config)
        hidden, num_heads = config.integer("hidden_size", 64), config.integer("n_head", 8)
        self.vocab_size = config.integer("vocab_size", 250880)
        self.max_positions = None
        self.transformer = BloomModel(config)
        tied = self.transformer.word_embeddings if config.boolean("tie_word_embeddings", True) else None
        self.lm_head = OutputHead(self.vocab_size, hidden, tied_to=tied)
        self.kv_layers = [KVLayerSpec(num_heads, hidden // num_heads, hidden // num_heads)] * len(self.transformer.h)

    def finish_loading(self) -> None:
        give_slopes(self, self.transformer.word_embeddings.weight.device)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.transformer(input_ids, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
