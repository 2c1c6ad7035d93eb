"""What a model needs of a GPU's memory, from its config.json: weights, KV cache, activations, run time. Bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segue.core.errors import ConfigError
from segue.core.parameter_count import count_parameters, is_tied

__all__ = [
    "USABLE_SHARE",
    "MemoryPlan",
    "ModelDescription",
    "ModelShape",
    "kv_bytes_per_token",
    "plan_memory",
    "read_shape",
    "weight_bytes",
]

RUNTIME_BYTES = 1_000_000_000
"""CUDA's context, libraries and communication buffers of one GPU; TGI's recommender counts the same."""
USABLE_SHARE = 0.9
"""Of what is left beside the context: TGI_WIGGLE_ROOM's default, TGI's and Segue's."""
MAX_BATCH_SIZE = 128
"""Sequences whose logits are computed together: TGI's default of max_concurrent_requests."""
_DTYPE_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_EIGHT_BIT_METHODS = ("fp8", "fbgemm_fp8", "eetq")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What is known of a model without its weights."""

    model_id: str
    config: Mapping[str, Any]
    """Its config.json."""
    model_max_length: int | None = None
    """Of tokenizer_config.json."""
    num_parameters: int | None = None
    """As its weight files state; None: counted from the config."""

    def parameters(self) -> int:
        """Raises UnsupportedModelError where they are neither stated nor countable."""
        return count_parameters(self.config) if self.num_parameters is None else self.num_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    num_layers: int
    """Of the decoder."""
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int | None
    """None: no limit of its own (T5, ALiBi)."""
    is_encoder_decoder: bool
    dtype_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each of ``num_gpus`` GPUs."""

    num_gpus: int
    weights: int
    activations: int
    """Of one prefill step, and the logits of a full batch."""
    runtime: int
    kv_per_token: int
    kv_budget: int
    """What is left for the KV cache; negative: the rest alone does not fit."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds, over all requests."""
        return max(0, self.kv_budget) // self.kv_per_token


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Raises ConfigError where a size is missing."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    hidden = _size(config, "hidden_size", "n_embd", "d_model", "n_embed")
    num_heads = _size(config, "num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads")
    return ModelShape(
        num_layers=_size(config, "num_decoder_layers", "decoder_layers", *_LAYERS),
        hidden_size=hidden,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(config, num_heads),
        head_dim=_size(config, "head_dim", "d_kv", default=hidden // num_heads),
        intermediate_size=_size(config, *_INTERMEDIATE, default=4 * hidden),
        vocab_size=_size(config, "vocab_size"),
        max_positions=_max_positions(config),
        is_encoder_decoder=bool(config.get("is_encoder_decoder", config.get("model_type") in ("t5", "mt5", "bart"))),
        dtype_bytes=_DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "float16"), 2),
    )


def plan_memory(description: ModelDescription, *, gpu_bytes: float, num_gpus: int, prefill_tokens: int) -> MemoryPlan:
    """Tensor-parallel over ``num_gpus`` GPUs of ``gpu_bytes`` each, ``prefill_tokens`` at most in one step.

    Raises UnsupportedModelError, ConfigError for a model of which too little is known.
    """
    shape = read_shape(description.config)
    weights = weight_bytes(description) // num_gpus
    activations = _activation_bytes(shape, prefill_tokens, num_gpus)
    usable = (gpu_bytes - RUNTIME_BYTES - weights) * USABLE_SHARE
    return MemoryPlan(
        num_gpus=num_gpus,
        weights=weights,
        activations=activations,
        runtime=RUNTIME_BYTES,
        kv_per_token=kv_bytes_per_token(shape, num_gpus),
        kv_budget=int(usable) - activations,
    )


def weight_bytes(description: ModelDescription) -> int:
    shape, num_parameters = read_shape(description.config), description.parameters()
    quantization = description.config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return num_parameters * shape.dtype_bytes
    # The embeddings stay as they are; each group of weights has a scale of 16 bits and a zero point of 4.
    plain = min(num_parameters, shape.vocab_size * shape.hidden_size * (1 if is_tied(description.config) else 2))
    group_size = int(quantization.get("group_size") or 128)
    bits = _weight_bits(quantization) + (20 / group_size if group_size > 0 else 0)
    return int(plain * 2 + (num_parameters - plain) * bits / 8)


def kv_bytes_per_token(shape: ModelShape, num_gpus: int = 1) -> int:
    """In the model's own dtype, on one GPU. A head is not split: where GPUs are more than heads, heads are repeated."""
    num_heads = -(-shape.num_kv_heads // num_gpus)
    return 2 * shape.num_layers * num_heads * shape.head_dim * max(shape.dtype_bytes, 2)


def _activation_bytes(shape: ModelShape, prefill_tokens: int, num_gpus: int) -> int:
    """An upper bound: a layer's residual, norm and output beside its widest tensors, attention's or feed-forward's."""
    attention = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim + shape.num_heads * shape.head_dim
    widest = max(attention, 3 * shape.intermediate_size) // num_gpus
    a_layer = prefill_tokens * (3 * shape.hidden_size + widest) * max(shape.dtype_bytes, 2)
    logits = 2 * 4 * MAX_BATCH_SIZE * shape.vocab_size  # float32, and one copy that the sampler changes
    return a_layer + logits


def _weight_bits(quantization: Mapping[str, Any]) -> float:
    if quantization.get("bits"):
        return float(quantization["bits"])
    method = str(quantization.get("quant_method", ""))
    if quantization.get("load_in_8bit") or method in _EIGHT_BIT_METHODS:
        return 8.0
    groups = quantization.get("config_groups")
    if isinstance(groups, Mapping):  # compressed-tensors
        bits = [group["weights"]["num_bits"] for group in groups.values() if group.get("weights")]
        return float(max(bits)) if bits else 16.0
    return 4.0


_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_INTERMEDIATE = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "decoder_ffn_dim")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def _num_kv_heads(config: Mapping[str, Any], num_heads: int) -> int:
    model_type = config.get("model_type")
    if model_type == "gpt_bigcode":
        return 1 if config.get("multi_query", True) else num_heads
    is_new_falcon = config.get("new_decoder_architecture", model_type == "RefinedWeb")
    if model_type in ("falcon", "RefinedWeb", "RefinedWebModel") and not is_new_falcon:
        return 1 if config.get("multi_query", True) else num_heads
    return _size(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", default=num_heads)


def _max_positions(config: Mapping[str, Any]) -> int | None:
    if config.get("alibi") or config.get("model_type") in ("t5", "mt5", "bloom"):
        return None
    return next((int(config[name]) for name in _POSITIONS if config.get(name)), None)


def _size(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        if config.get(name) is not None:
            return int(config[name])
    if default is None:
        raise ConfigError(f"config.json has no {names[0]!r}")
    return default
