"""The formulas against transformers' own modules, built on the meta device: nothing is allocated."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from segue.core.errors import UnsupportedModelError
from segue.core.parameter_count import COUNTED_TYPES, count_parameters

COMMON = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
GROUPED = COMMON | {"num_key_value_heads": 2, "intermediate_size": 80}
T5 = {"vocab_size": 97, "d_model": 40, "d_kv": 12, "d_ff": 72, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 4}
FALCON = COMMON | {"num_kv_heads": 2}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED),
    "llama with biases, tied": (
        "llama",
        GROUPED | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 10},
    ),
    "mistral": ("mistral", GROUPED | {"head_dim": 12}),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4}),
    "gemma": ("gemma", GROUPED | {"head_dim": 20}),
    "gemma without head_dim": ("gemma", GROUPED),
    "gemma2": ("gemma2", GROUPED | {"head_dim": 20}),
    "gemma3_text": ("gemma3_text", GROUPED | {"head_dim": 20}),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 20}),
    "phi3": ("phi3", GROUPED | {"pad_token_id": 0}),
    "phi": ("phi", GROUPED),
    "phi with norms of queries": ("phi", GROUPED | {"qk_layernorm": True}),
    "starcoder2": ("starcoder2", GROUPED),
    "starcoder2 without biases": ("starcoder2", GROUPED | {"use_bias": False}),
    "gpt_neox": ("gpt_neox", COMMON | {"intermediate_size": 80}),
    "gpt_neox without biases": ("gpt_neox", COMMON | {"intermediate_size": 80, "attention_bias": False}),
    "gpt2": ("gpt2", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40}),
    "gpt2 with n_inner": ("gpt2", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_inner": 50}),
    "gpt_bigcode": ("gpt_bigcode", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40}),
    "gpt_bigcode, many heads": (
        "gpt_bigcode",
        {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40, "multi_query": False},
    ),
    "gpt_neo": (
        "gpt_neo",
        {
            "vocab_size": 97,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 6,
            "max_position_embeddings": 40,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "bloom": ("bloom", {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 6}),
    "opt": ("opt", COMMON | {"ffn_dim": 72, "max_position_embeddings": 40, "word_embed_proj_dim": 48}),
    "opt like 350m": (
        "opt",
        COMMON
        | {"ffn_dim": 72, "max_position_embeddings": 40, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "falcon like 7b": ("falcon", FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon like 40b": ("falcon", FALCON | {"new_decoder_architecture": True}),
    "falcon like 11b": ("falcon", FALCON | {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
    "falcon like rw": (
        "falcon",
        FALCON | {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
    ),
    "mpt": ("mpt", {"vocab_size": 97, "d_model": 48, "n_layers": 3, "n_heads": 6}),
    "t5": ("t5", T5),
    "t5 1.1": ("t5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": (
        "bart",
        {
            "vocab_size": 97,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_ffn_dim": 60,
            "decoder_ffn_dim": 72,
            "encoder_attention_heads": 6,
            "decoder_attention_heads": 6,
            "max_position_embeddings": 40,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_transformers_counts(case: str) -> None:
    model_type, sizes = CASES[case]
    config = AutoConfig.for_model(model_type, **sizes)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    model.tie_weights()
    expected = sum(parameter.numel() for parameter in model.parameters())
    if model_type in ("t5", "mt5") and sizes.get("tie_word_embeddings") is False:
        expected += sizes["vocab_size"] * sizes["d_model"]  # the module ties always, these checkpoints do not
    assert count_parameters({"model_type": model_type, **sizes}) == expected, "from the keys that were set"
    assert count_parameters(config.to_dict()) == expected, "from a whole config.json"


def test_every_formula_has_a_case() -> None:
    old_names_of_falcon = {"RefinedWeb", "RefinedWebModel"}
    assert {model_type for model_type, _ in CASES.values()} | old_names_of_falcon == COUNTED_TYPES


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (
            {
                "model_type": "gemma",
                "vocab_size": 256000,
                "hidden_size": 3072,
                "intermediate_size": 24576,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "head_dim": 256,
            },
            8_537_680_896,
        ),
        (
            {
                "model_type": "RefinedWeb",
                "vocab_size": 65024,
                "hidden_size": 8192,
                "n_layer": 60,
                "n_head": 128,
                "n_head_kv": 8,
            },
            41_303_293_952,
        ),
        (
            {
                "model_type": "RefinedWebModel",
                "vocab_size": 65024,
                "hidden_size": 4544,
                "n_layer": 32,
                "n_head": 71,
                "multi_query": True,
                "parallel_attn": True,
            },
            6_921_720_704,
        ),
        (
            {
                "model_type": "t5",
                "vocab_size": 32128,
                "d_model": 512,
                "d_ff": 1024,
                "d_kv": 64,
                "num_heads": 6,
                "num_layers": 8,
                "num_decoder_layers": 8,
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
            },
            76_961_152,
        ),
    ],
    ids=["gemma-7b", "falcon-40b", "falcon-7b", "flan-t5-small"],
)
def test_published_counts(config: dict[str, Any], published: int) -> None:
    assert count_parameters(config) == published


def test_unknown_family_and_missing_size() -> None:
    with pytest.raises(UnsupportedModelError, match="'mamba'"):
        count_parameters({"model_type": "mamba"})
    with pytest.raises(UnsupportedModelError, match="no 'intermediate_size'"):
        count_parameters({"model_type": "llama", **COMMON})
