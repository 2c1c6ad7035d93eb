"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each part, weights stored as [in, out]."""

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

__all__ = ["GPT2ForCausalLM"]


class GPT2Attention(nn.Module):
    """``reorder_and_upcast_attn`` asks for scores in float32, which is what the attention operator gives."""

    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.integer("n_embd", 768), config.integer("n_head", 12)
        self.head_dim = hidden // self.num_heads
        self.c_attn = MergedLinear(hidden, (hidden, hidden, hidden), bias=True, transposed=True)
        self.c_proj = Linear(hidden, hidden, bias=True, transposed=True)
        scale = self.head_dim**-0.5 if config.boolean("scale_attn_weights", True) else 1.0
        if config.boolean("scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        self.attention = Attention(
            layer, AttentionSpec(num_heads=self.num_heads, num_kv_heads=self.num_heads, scale=scale)
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.c_attn(x).view(x.shape[0], 3, self.num_heads, self.head_dim).unbind(1)
        return self.c_proj(self.attention(q, k, v, ctx))


class GPT2MLP(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("n_embd", 768)
        inner = config.integer("n_inner", 4 * hidden)
        self.c_fc = Linear(hidden, inner, bias=True, transposed=True)
        self.c_proj = Linear(inner, hidden, bias=True, transposed=True)
        self.activation = activation(config.string("activation_function", "gelu_new"))

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class GPT2Layer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("n_embd", 768), config.number("layer_norm_epsilon", 1e-5)
        self.ln_1 = LayerNorm(hidden, eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(hidden, eps)
        self.mlp = GPT2MLP(config)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = x + self.attn(self.ln_1(x), ctx)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden = config.integer("n_embd", 768)
        self.wte = Embedding(config.integer("vocab_size", 50257), hidden)
        self.wpe = Embedding(config.integer("n_positions", 1024), hidden)
        self.h = Stack(GPT2Layer(config, i) for i in range(config.integer("n_layer", 12)))
        self.ln_f = LayerNorm(hidden, config.number("layer_norm_epsilon", 1e-5))

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.wte(input_ids) + self.wpe(positions)
        for layer in self.h:
            x = layer(x, ctx)
        return self.ln_f(x)


class GPT2ForCausalLM(Model):
    prefix = "transformer."
    ignored = (".attn.bias", ".attn.masked_bias")

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        self.vocab_size = config.integer("vocab_size", 50257)
        self.max_positions = config.integer("n_positions", 1024)
        self.transformer = GPT2Model(config)
        tied = self.transformer.wte if config.boolean("tie_word_embeddings", True) else None
        self.lm_head = OutputHead(self.vocab_size, config.integer("n_embd", 768), tied_to=tied)
        num_heads = config.integer("n_head", 12)
        head_dim = config.integer("n_embd", 768) // num_heads
        self.kv_layers = [KVLayerSpec(num_heads, head_dim, head_dim)] * len(self.transformer.h)

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.transformer(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)
