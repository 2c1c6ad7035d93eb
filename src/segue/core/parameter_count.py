"""How many parameters a checkpoint has, from its config.json alone: one formula a model family.

The formulas follow the shapes of ``transformers``' modules, with which the tests compare them; tied weights count once.
"""

from collections.abc import Callable, Mapping
from typing import Any

from segue.core.errors import UnsupportedModelError

__all__ = ["COUNTED_TYPES", "count_parameters", "is_tied"]

Config = Mapping[str, Any]

_UNTIED_BY_DEFAULT = frozenset({"gpt_neox", "llama", "mistral", "mixtral", "phi", "phi3", "qwen2", "qwen3"})


def count_parameters(config: Config) -> int:
    """Raises UnsupportedModelError for a family without a formula, or a config without one of its sizes."""
    model_type = str(config.get("model_type", ""))
    formula = _FORMULAS.get(model_type)
    if formula is None:
        raise UnsupportedModelError(f"how many parameters a '{model_type}' model has is not known here")
    try:
        return formula(config)
    except KeyError as error:
        raise UnsupportedModelError(f"config.json has no {error}, which model type '{model_type}' needs") from None


def _embedding(config: Config, hidden_size: int) -> int:
    """Those of the input embedding and the output layer."""
    return int(config["vocab_size"]) * hidden_size * (1 if is_tied(config) else 2)


def is_tied(config: Config) -> bool:
    """Whether the output layer is the input embedding."""
    # Transformers 5 writes "tied" for every T5; what tells is a flag for T5, and mT5 was never published tied.
    if config.get("model_type") == "mt5" or config.get("scale_decoder_outputs") is False:
        return False
    tied = config.get("tie_word_embeddings")
    return config.get("model_type") not in _UNTIED_BY_DEFAULT if tied is None else bool(tied)


def _linear(num_in: int, num_out: int, bias: bool) -> int:
    return num_in * num_out + (num_out if bias else 0)


def _first(config: Config, *names: str, default: Any = None) -> Any:
    for name in names:
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise KeyError(names[0])
    return default


def _llama(config: Config) -> int:
    """Llama and its many descendants: RMS norms, gated feed-forward, grouped heads."""
    model_type, hidden = config["model_type"], int(config["hidden_size"])
    num_heads = config["num_attention_heads"]
    num_kv_heads = _first(config, "num_key_value_heads", default=num_heads)
    head_dim = _first(config, "head_dim", default=256 if model_type.startswith("gemma") else hidden // num_heads)
    queries, keys = num_heads * head_dim, num_kv_heads * head_dim
    bias = bool(config.get("attention_bias", False)) and model_type != "qwen2"
    attention = _linear(hidden, queries + 2 * keys, bias or model_type == "qwen2") + _linear(queries, hidden, bias)
    if model_type in ("qwen3", "gemma3_text"):
        attention += 2 * head_dim
    num_norms = 4 if model_type in ("gemma2", "gemma3_text") else 2
    per_layer = attention + _gated_feed_forward(config) + num_norms * hidden
    return int(_embedding(config, hidden) + config["num_hidden_layers"] * per_layer + hidden)


def _gated_feed_forward(config: Config) -> int:
    hidden, inner, bias = config["hidden_size"], config["intermediate_size"], bool(config.get("mlp_bias", False))
    one = 2 * _linear(hidden, inner, bias) + _linear(inner, hidden, bias)
    if config["model_type"] != "mixtral":
        return int(one)
    num_experts = int(_first(config, "num_local_experts", default=8))
    return int(num_experts * one + hidden * num_experts)


def _gpt(config: Config) -> int:
    """The GPT kind: layer norms, biases, a feed-forward of two layers."""
    hidden = int(_first(config, "hidden_size", "n_embd"))
    num_layers = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    num_heads = _first(config, "num_attention_heads", "n_head", "num_heads")
    inner = _first(config, "intermediate_size", "n_inner", default=4 * hidden)
    model_type = config["model_type"]
    biases = bool(config.get("use_bias", True)) if model_type == "starcoder2" else True
    attention_bias = bool(config.get("attention_bias", True)) if model_type == "gpt_neox" else biases
    keys = hidden
    if model_type == "gpt_bigcode" and config.get("multi_query", True):
        keys = hidden // num_heads
    elif model_type in ("starcoder2", "phi"):
        keys = _first(config, "num_key_value_heads", default=num_heads) * (hidden // num_heads)
    attention = _linear(hidden, hidden + 2 * keys, attention_bias and model_type != "gpt_neo")
    attention += _linear(hidden, hidden, attention_bias)
    if model_type == "phi" and config.get("qk_layernorm"):
        attention += 4 * (hidden // num_heads)
    num_norms = 1 if model_type == "phi" else 2
    per_layer = attention + _linear(hidden, inner, biases) + _linear(inner, hidden, biases) + num_norms * 2 * hidden
    total = _embedding(config, hidden) + num_layers * per_layer + 2 * hidden
    if model_type in ("gpt2", "gpt_bigcode", "gpt_neo"):
        total += hidden * int(_first(config, "n_positions", "max_position_embeddings", default=1024))
    if model_type == "phi":
        total += config["vocab_size"]  # bias of the output layer
    return int(total)


def _bloom(config: Config) -> int:
    hidden = int(_first(config, "hidden_size", "n_embed"))
    per_layer = _linear(hidden, 3 * hidden, True) + _linear(hidden, hidden, True)
    per_layer += _linear(hidden, 4 * hidden, True) + _linear(4 * hidden, hidden, True) + 4 * hidden
    num_layers = _first(config, "n_layer", "num_hidden_layers")
    return _embedding(config, hidden) + int(num_layers) * per_layer + 4 * hidden


def _opt(config: Config) -> int:
    hidden, inner = config["hidden_size"], config["ffn_dim"]
    width = _first(config, "word_embed_proj_dim", default=hidden)
    bias = bool(config.get("enable_bias", True))
    norm = 2 * hidden if config.get("layer_norm_elementwise_affine", True) else 0
    per_layer = 4 * _linear(hidden, hidden, bias) + _linear(hidden, inner, bias) + _linear(inner, hidden, bias)
    total = _embedding(config, width) + (config["max_position_embeddings"] + 2) * hidden
    total += config["num_hidden_layers"] * (per_layer + 2 * norm)
    if width != hidden:
        total += 2 * width * hidden
    if config.get("do_layer_norm_before", True) and not config.get("_remove_final_layer_norm", False):
        total += norm
    return int(total)


def _falcon(config: Config) -> int:
    hidden = config["hidden_size"]
    num_heads = _first(config, "num_attention_heads", "n_head")
    head_dim = hidden // num_heads
    is_new = bool(config.get("new_decoder_architecture", config["model_type"] == "RefinedWeb"))
    if is_new:
        num_kv_heads = _first(config, "num_kv_heads", "n_head_kv", default=num_heads)
    else:
        num_kv_heads = 1 if config.get("multi_query", True) else num_heads
    bias = bool(config.get("bias", False))
    inner = _first(config, "ffn_hidden_size", default=4 * hidden)
    if is_new:
        num_norms = _first(config, "num_ln_in_parallel_attn", default=2)
    else:
        num_norms = 1 if config.get("parallel_attn", True) else 2
    per_layer = _linear(hidden, (num_heads + 2 * num_kv_heads) * head_dim, bias) + _linear(hidden, hidden, bias)
    per_layer += _linear(hidden, inner, bias) + _linear(inner, hidden, bias) + num_norms * 2 * hidden
    num_layers = _first(config, "num_hidden_layers", "n_layer")
    return int(_embedding(config, hidden) + num_layers * per_layer + 2 * hidden)


def _mpt(config: Config) -> int:
    hidden = config["d_model"]
    inner = _first(config, "expansion_ratio", default=4) * hidden
    per_layer = 4 * hidden * hidden + 2 * hidden * inner + 2 * hidden  # norms without bias
    return int(_embedding(config, hidden) + config["n_layers"] * per_layer + hidden)


def _t5(config: Config) -> int:
    hidden, inner, num_heads = config["d_model"], config["d_ff"], config["num_heads"]
    attention = 4 * hidden * num_heads * config["d_kv"]
    is_gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    feed_forward = (3 if is_gated else 2) * hidden * inner
    num_layers = config["num_layers"]
    num_decoder_layers = _first(config, "num_decoder_layers", default=num_layers)
    relative_bias = _first(config, "relative_attention_num_buckets", default=32) * num_heads
    total = num_layers * (attention + feed_forward + 2 * hidden)
    total += num_decoder_layers * (2 * attention + feed_forward + 3 * hidden)
    return int(_embedding(config, hidden) + total + 2 * (hidden + relative_bias))


def _bart(config: Config) -> int:
    hidden = config["d_model"]
    attention, norm = 4 * _linear(hidden, hidden, True), 2 * hidden
    total = _embedding(config, hidden)
    for stack, num_attentions in (("encoder", 1), ("decoder", 2)):
        inner = config[f"{stack}_ffn_dim"]
        feed_forward = _linear(hidden, inner, True) + _linear(inner, hidden, True)
        per_layer = num_attentions * (attention + norm) + feed_forward + norm
        total += config[f"{stack}_layers"] * per_layer
        total += (config["max_position_embeddings"] + 2) * hidden + norm
    return int(total)


_FORMULAS: Mapping[str, Callable[[Config], int]] = {
    "bart": _bart,
    "bloom": _bloom,
    "falcon": _falcon,
    "gemma": _llama,
    "gemma2": _llama,
    "gemma3_text": _llama,
    "gpt2": _gpt,
    "gpt_bigcode": _gpt,
    "gpt_neo": _gpt,
    "gpt_neox": _gpt,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _llama,
    "mpt": _mpt,
    "mt5": _t5,
    "opt": _opt,
    "phi": _gpt,
    "phi3": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "RefinedWeb": _falcon,
    "RefinedWebModel": _falcon,
    "starcoder2": _gpt,
    "t5": _t5,
}
COUNTED_TYPES = frozenset(_FORMULAS)
"""Values of ``model_type`` that have a formula."""
