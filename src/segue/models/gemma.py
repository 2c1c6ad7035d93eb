"""Gemma 1, 2 and 3 (Gemma Team 2024, 2025): Llama with scaled embeddings and norms around 1 + weight.

Gemma 2 also normalizes what each part gives, caps scores and logits, and has a window on every second layer. Gemma 3
normalizes q and k instead of capping scores, and rotates its windowed layers by another base. Of Gemma 3's image
models (model type "gemma3") the text part runs here.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels import ops
from segue.kernels.metadata import AttentionSpec
from segue.layers.attention import ForwardContext, KVLayerSpec
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.norm import RMSNorm
from segue.layers.rotary import RopeParams, Rotary, Rotation
from segue.layers.stack import Stack
from segue.models.base import Model
from segue.models.config import HFConfig
from segue.models.llama import GatedMLP, LlamaForCausalLM, SelfAttention, sliding_window_of

__all__ = ["GemmaForCausalLM"]

_COMMON: dict[str, Any] = {"head_dim": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
_SECOND: dict[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        **_COMMON,
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 8192,
    },
    "gemma2": {
        **_COMMON,
        **_SECOND,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {**_COMMON, **_SECOND, "vocab_size": 262208, "max_position_embeddings": 131072},
}
"""What published files leave out. A key that is there and null switches its feature off."""


def text_config(config: HFConfig) -> HFConfig:
    """The text model's settings with all defaults filled in.

    Raises:
        ConfigError: the model attends in both directions (an embedding model).
    """
    stored = dict(config.section("text_config").values if config.model_type == "gemma3" else config.values)
    kind = "gemma3_text" if config.model_type == "gemma3" else config.model_type
    values = {**DEFAULTS[kind], **stored, "model_type": kind}
    if values.get("use_bidirectional_attention"):
        raise ConfigError("config.json: use_bidirectional_attention: such a model cannot generate text")
    num_layers = int(values["num_hidden_layers"])
    if kind == "gemma":
        values["sliding_window"] = None
        # "gelu" in the first published files meant the tanh form
        name = values.get("hidden_act") or "gelu"
        values["hidden_act"] = "gelu_pytorch_tanh" if name == "gelu" else name
    else:
        pattern = 2 if kind == "gemma2" else int(values.get("sliding_window_pattern") or 6)
        kinds = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(num_layers)]
        values["layer_types"] = values.get("layer_types") or kinds
        values["hidden_act"] = values.get("hidden_activation") or "gelu_pytorch_tanh"
    return HFConfig(values)


def local_rope(config: HFConfig) -> RopeParams:
    """Gemma 3's rotation of layers with a window: a base of its own, and no scaling in files of transformers 4."""
    nested = config.values.get("rope_parameters")
    if isinstance(nested, dict) and isinstance(nested.get("sliding_attention"), dict):
        return config.rope(config.integer("head_dim"), layer_type="sliding_attention")
    theta = config.number("rope_local_base_freq", 10000.0)
    plain = {**config.values, "rope_parameters": None, "rope_scaling": None, "rope_theta": theta}
    return HFConfig(plain).rope(config.integer("head_dim"))


class GemmaAttention(SelfAttention):
    def __init__(self, config: HFConfig, layer: int) -> None:
        bias = config.boolean("attention_bias", False)
        super().__init__(config, layer, qkv_bias=bias, out_bias=bias)
        if config.model_type == "gemma3_text":
            eps = config.number("rms_norm_eps")
            self.q_norm = RMSNorm(self.head_dim, eps, offset=1.0)
            self.k_norm = RMSNorm(self.head_dim, eps, offset=1.0)

    def spec(self, config: HFConfig, layer: int) -> AttentionSpec:
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            scale=config.number("query_pre_attn_scalar", self.head_dim) ** -0.5,
            sliding_window=sliding_window_of(config, layer),
            soft_cap=config.optional_number("attn_logit_softcapping") if config.model_type == "gemma2" else None,
        )


class GemmaLayer(nn.Module):
    def __init__(self, config: HFConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.integer("hidden_size"), config.number("rms_norm_eps")
        self.self_attn = GemmaAttention(config, layer)
        self.mlp = GatedMLP(config)
        self.input_layernorm = RMSNorm(hidden, eps, offset=1.0)
        self.post_attention_layernorm = RMSNorm(hidden, eps, offset=1.0)
        self.norms_outputs = config.model_type != "gemma"
        if self.norms_outputs:
            self.pre_feedforward_layernorm = RMSNorm(hidden, eps, offset=1.0)
            self.post_feedforward_layernorm = RMSNorm(hidden, eps, offset=1.0)

    def forward(self, x: Tensor, rotation: Rotation, ctx: ForwardContext) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation, ctx)
        if not self.norms_outputs:
            x = x + attended
            return x + self.mlp(self.post_attention_layernorm(x))
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class GemmaModel(nn.Module):
    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        hidden, head_dim = config.integer("hidden_size"), config.integer("head_dim")
        is_gemma3 = config.model_type == "gemma3_text"
        self.embed_tokens = Embedding(config.integer("vocab_size"), hidden)
        self.embed_scale = hidden**0.5
        self.layers = Stack(GemmaLayer(config, i) for i in range(config.integer("num_hidden_layers")))
        self.norm = RMSNorm(hidden, config.number("rms_norm_eps"), offset=1.0)
        theta = 1_000_000.0 if is_gemma3 else 10_000.0
        self.rotary = Rotary(config.rope(head_dim, theta=theta, layer_type="full_attention"))
        self.local_rotary = Rotary(local_rope(config)) if is_gemma3 else None
        self.is_local = [kind == "sliding_attention" for kind in config.strings("layer_types") or []]

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        x = self.embed_tokens(input_ids) * self.embed_scale
        rotation = self.rotary(positions, ctx.is_long, x.dtype)
        if self.local_rotary is None:
            for layer in self.layers:
                x = layer(x, rotation, ctx)
        else:
            local_rotation = self.local_rotary(positions, None, x.dtype)
            for layer, is_local in zip(self.layers, self.is_local, strict=True):
                x = layer(x, local_rotation if is_local else rotation, ctx)
        return self.norm(x)


class GemmaForCausalLM(Model):
    prefix = "model."
    packed: ClassVar = LlamaForCausalLM.packed
    renames: ClassVar = ((r"^language_model\.(?=model\.|lm_head\.)", ""), (r"^model\.language_model\.", "model."))
    ignored = ("rotary_emb.inv_freq",)

    def __init__(self, config: HFConfig) -> None:
        super().__init__(config)
        text = text_config(config)
        self.model = GemmaModel(text)
        self.vocab_size = text.integer("vocab_size")
        tied = self.model.embed_tokens if text.boolean("tie_word_embeddings") else None
        self.lm_head = OutputHead(self.vocab_size, text.integer("hidden_size"), tied_to=tied)
        self.logit_cap = text.optional_number("final_logit_softcapping")
        spec = KVLayerSpec(text.integer("num_key_value_heads"), text.integer("head_dim"), text.integer("head_dim"))
        self.kv_layers = [spec] * len(self.model.layers)
        self.max_positions = text.integer("max_position_embeddings")
        self.long_prompt_boundary = self.model.rotary.long_prompt_boundary

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        if "vision_tower." not in name and "multi_modal_projector." not in name:
            yield name, tensor

    def finish_loading(self) -> None:
        # Trained with the scale in the weights' own precision: 55.5 in bfloat16 where sqrt(3072) is 55.4256.
        self.model.embed_scale = torch.tensor(self.model.embed_scale, dtype=self.dtype).item()

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        return self.model(input_ids, positions, ctx)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        logits = self.lm_head(hidden)
        return logits if self.logit_cap is None else ops.soft_cap(logits, self.logit_cap)
