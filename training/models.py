"""Shapes of the two sample models, and their folders in Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from training import chat_format

MAX_POSITIONS = 1024


def chat_model(vocab_size: int) -> LlamaForCausalLM:
    """A Llama of 2.4 million weights: 5 layers of width 192, 6 query heads on 2 key/value heads, tied embeddings."""
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=MAX_POSITIONS, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def t5_model(vocab_size: int) -> T5ForConditionalGeneration:
    """A gated T5 of 1.4 million weights: 3 encoder and 3 decoder layers of width 128, tied embeddings."""
    config = T5Config(
        vocab_size=vocab_size, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_decoder_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, relative_attention_num_buckets=32, relative_attention_max_distance=128,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def save_chat(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Write the chat checkpoint in bfloat16; generation ends at the end of a turn or of a text."""
    _save(folder, model, tokenizer, GenerationConfig(bos_token_id=1, eos_token_id=[3, 0], pad_token_id=0))
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_POSITIONS, "bos_token": chat_format.BEGIN,
        "eos_token": chat_format.TURN_END, "pad_token": chat_format.END_OF_TEXT, "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"], "chat_template": chat_format.CHAT_TEMPLATE,
    })  # fmt: skip


def save_t5(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Write the encoder-decoder checkpoint in bfloat16."""
    _save(folder, model, tokenizer, GenerationConfig(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0))
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "eos_token": "</s>",
        "pad_token": "<pad>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    })  # fmt: skip


def _save(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, generation: GenerationConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.generation_config = generation
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    model.to(torch.float32).load_state_dict(kept)  # type: ignore[arg-type]
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
